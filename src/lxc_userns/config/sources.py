# SPDX-License-Identifier: Apache-2.0
"""Sources of the values of our options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import glob
from typing import Final

from oslo_config import cfg

from lxc_userns.config.options import list_opts, option_name
from lxc_userns.config.values import read_values

_PLACES: Final = {
    cfg.Locations.opt_default: "the default",
    cfg.Locations.set_default: "a default that the program sets",
    cfg.Locations.set_override: "the program, which overrides it",
    cfg.Locations.command_line: "the command line",
}
#: Of a value that cannot be read, oslo.config tells it in the text alone.
_LOCATION: Final = re.compile(
    r"LocationInfo\(location=<Locations\.(user|environment):.*?detail='(.*?)'\)"
)


def find_places(conf: cfg.ConfigOpts) -> Iterator[tuple[str, str, str]]:
    """Return option, value and place of each option of ours.

    The place is a phrase, as ``the default`` or ``the file /etc/x.conf``.

    :param conf: a configuration object with our options registered.
    """
    values = read_values(conf)
    for group, every in list_opts():
        for each in every:
            name = option_name(group, each.name)
            place = _find_place(conf, group, each.name)
            if name in values and place:
                yield name, values[name], place


def find_files(conf: cfg.ConfigOpts) -> list[str]:
    """Return the configuration files that are read, in that order.

    :param conf: a configuration object that has been called.
    """
    files = [*(conf.config_file or ())]
    for each in conf.config_dir or ():
        files += sorted(glob(f"{each}/*.conf"))
    return files


def _find_place(conf: cfg.ConfigOpts, group: str, name: str) -> str:
    """Return where a value is from; empty if oslo.config does not tell."""
    try:
        found = conf.get_location(name, group)
    except (cfg.Error, ValueError) as err:
        match = _LOCATION.search(str(err))
        if match is None:
            return ""
        place, detail = cfg.Locations[match[1]], match[2]
    else:
        if found is None:
            return ""
        place, detail = found.location, found.detail
    if place == cfg.Locations.environment:
        return f"the environment variable {detail}"
    if place == cfg.Locations.user:
        return f"the file {_find_file(conf, group, name) or detail}"
    return _PLACES.get(place, place.name)


def _find_file(conf: cfg.ConfigOpts, group: str, name: str) -> str:
    """Return the last file that has an option.

    What oslo.config gives is the last file that has its section.
    """
    files = find_files(conf)
    parsed = [] if conf._namespace is None else conf._namespace._parsed
    # The last one is the first there.
    if len(files) == len(parsed):
        for file, sections in zip(reversed(files), parsed, strict=True):
            for section, options in sections.items():
                if section.lower() == group and name in options:
                    return str(file)
    return ""
