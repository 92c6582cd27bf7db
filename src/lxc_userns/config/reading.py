# SPDX-License-Identifier: Apache-2.0
"""Values of our options, as oslo.config has read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oslo_config import cfg

from lxc_userns.config import allowed_paths, names
from lxc_userns.config.groups import (
    GROUP,
    LIBVIRT_GROUP,
    PRIVILEGED_GROUP,
    option_name,
)
from lxc_userns.config.options import LIBVIRT_OPTS, OPTS
from lxc_userns.exceptions import ConfigError

_OPTIONS: Final = {
    GROUP: OPTS,
    PRIVILEGED_GROUP: allowed_paths.OPTS,
    LIBVIRT_GROUP: LIBVIRT_OPTS,
}
_NAMES: Final = {
    group: [each.name for each in _OPTIONS[group]]
    for group in (GROUP, PRIVILEGED_GROUP)
}
#: Where a value is that somebody has written, and that is no default.
_WRITTEN: Final = frozenset(
    {
        cfg.Locations.command_line,
        cfg.Locations.environment,
        cfg.Locations.set_override,
        cfg.Locations.user,
    }
)
_POLICY: Final = "userns_policy"


def read_values(
    conf: cfg.ConfigOpts,
) -> tuple[dict[str, Any], dict[str, ConfigError]]:
    """Return the values that can be read, and the errors of the others."""
    values, unreadable = {}, {}
    for group, options in _OPTIONS.items():
        for each in options:
            name = option_name(group, each.name)
            try:
                values[name] = conf[group][each.name]
            except (cfg.Error, ValueError) as err:
                # What comes before is where oslo.config found it.
                reason = str(err).rpartition("is not valid: ")[2]
                unreadable[name] = ConfigError(name, "", reason)
            except RecursionError:
                reason = "refers to itself by $; write the value"
                unreadable[name] = ConfigError(name, "", reason)
    return values, unreadable


def find_misnamed(conf: cfg.ConfigOpts) -> list[ConfigError]:
    """Return an error for each name that is nearly one of ours."""
    return names.find_misnamed(conf, _NAMES)


def is_required(conf: cfg.ConfigOpts, values: Mapping[str, Any]) -> bool:
    """Return whether somebody has written that user namespaces are a must."""
    if values.get(option_name(GROUP, _POLICY)) != "required":
        return False
    place = conf.get_location(_POLICY, GROUP)
    return place is not None and place.location in _WRITTEN
