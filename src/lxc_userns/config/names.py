# SPDX-License-Identifier: Apache-2.0
"""Names in the configuration that are nearly ours.

oslo.config passes over what it does not know. Of our options that is what
isolation hangs on: without ID maps, containers run as the host's root.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Final

from oslo_config import cfg

from lxc_userns.exceptions import ConfigError

#: Options without which there is less isolation, and their sections. Where
#: these are misspelt or misplaced in any section, it is told.
_PLACES: Final = {
    "uid_maps": "libvirt",
    "gid_maps": "libvirt",
    "subid_owner": "lxc_userns",
    "unmapped_ids": "lxc_userns",
    "userns_policy": "lxc_userns",
}
#: Of all names in Nova 34 the nearest to a section of ours has 0.50, to an
#: option in _PLACES 0.56; "uid_mapping" has 0.71, "lxc_usernamespace" 0.72.
_NEAR: Final = 0.7
#: Variables that oslo.config reads have only capitals.
_VARIABLE: Final = re.compile(r"(?i:OS)_(.+?)__(.+)")

_PRIVILEGED: Final = "lxc_userns_privileged"

Known = Mapping[str, Collection[str]]


def find_misnamed(conf: cfg.ConfigOpts, known: Known) -> list[ConfigError]:
    """Return an error for each name that is nearly one of ours.

    :param conf: a configuration object; what it has read counts, which is
        not always what its files have now.
    :param known: all options of our sections, but for those of oslo.privsep.
    """
    known = _add_privsep(conf, known)
    found: dict[str, ConfigError] = {}
    for section, options in _read_sections(conf):
        for error in _misnamed_options(section, options, known):
            found[error.option] = error
    if conf._use_env:
        for name in os.environ:
            for error in _misnamed_variable(name, known):
                found[error.option] = error
    return [*found.values()]


def _add_privsep(conf: cfg.ConfigOpts, known: Known) -> Known:
    """Add the options that oslo.privsep has in the section of a context."""
    named = " ".join((*conf.list_all_sections(), *os.environ))
    if _PRIVILEGED not in named.lower():
        return known
    # Loaded late: hardly any command needs it.
    from oslo_privsep.priv_context import OPTS

    names = [*known[_PRIVILEGED], *(each.name for each in OPTS)]
    return {**known, _PRIVILEGED: names}


def _read_sections(
    conf: cfg.ConfigOpts,
) -> Iterator[tuple[str, Collection[str]]]:
    # There is no public way to the names of options that are not registered.
    if conf._namespace is not None:
        for file in conf._namespace._parsed:
            yield from file.items()


def _misnamed_options(
    section: str, options: Collection[str], known: Known
) -> Iterator[ConfigError]:
    # As oslo.config does: sections are in any case, options are not.
    place = section.lower()
    meant = _mean_section(place, known)
    if meant is not None:
        reason = f"unknown section; write [{meant}]"
        yield ConfigError(f"[{section}]", "", reason)
        return
    for option in options:
        right = _mean_option(place, option, known)
        if right is not None:
            advice = "remove it"
            if right:
                advice = f"write [{right[0]}] {right[1]}"
            reason = f"unknown option; {advice}"
            yield ConfigError(f"[{section}] {option}", "", reason)


def _misnamed_variable(name: str, known: Known) -> Iterator[ConfigError]:
    match = _VARIABLE.fullmatch(name)
    if match is None:
        return
    section, option = match[1].swapcase(), match[2].swapcase()
    place = _mean_section(section, known) or section
    right = _mean_option(place, option, known)
    if right is None:
        if place == section:
            return
        right = place, option
    advice = "remove it"
    if right:
        name_section, name_option = (each.upper() for each in right)
        advice = f"write OS_{name_section}__{name_option}"
    yield ConfigError(name, "", f"unknown variable; {advice}")


def _mean_section(section: str, known: Known) -> str | None:
    """Return the section of ours that is meant by one that is not."""
    if section in known:
        return None
    return _nearest(section, tuple(known))


def _mean_option(
    section: str, option: str, known: Known
) -> tuple[str, ...] | None:
    """Return section and name of the option that is meant, if not this one.

    :returns: None if nothing is wrong; nothing in it if there is none near.
    """
    ours = known.get(section, ())
    if option in ours or _PLACES.get(option) == section:
        return None
    near = _nearest(option, (*_PLACES, *ours))
    if near is not None:
        return (section if near in ours else _PLACES[near], near)
    return () if section in known else None


@lru_cache(4096)
def _nearest(name: str, names: tuple[str, ...]) -> str | None:
    by_letters = {_letters(each): each for each in names}
    letters = _letters(name)
    # A bound that is quick to find, for a file may have hundreds of names.
    possible = [
        each
        for each in by_letters
        if 2 * sum(min(letters.count(c), each.count(c)) for c in {*each})
        >= _NEAR * (len(letters) + len(each))
    ]
    found = difflib.get_close_matches(letters, possible, n=1, cutoff=_NEAR)
    return by_letters[found[0]] if found else None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
