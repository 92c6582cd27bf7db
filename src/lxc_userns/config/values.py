# SPDX-License-Identifier: Apache-2.0
"""Values of our options, to compare those of two processes."""

from __future__ import annotations

from collections.abc import Mapping

from oslo_config import cfg

from lxc_userns.config.options import GROUP, LIBVIRT_GROUP, LIBVIRT_OPTS, OPTS
from lxc_userns.exceptions import ConfigError

_ADVICE = (
    "name the service's configuration files, in their order, in "
    "[lxc_userns_privileged] helper_command, and start the service again"
)


def read_values(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Return the value of each option of ours as text, by ``[group] name``.

    ``[lxc_userns_privileged]`` is left out: it is the helper's alone.

    :param conf: a configuration object with our options registered.
    """
    return {
        f"[{group}] {option.name}": _read(conf, group, option.name)
        for group, options in ((LIBVIRT_GROUP, LIBVIRT_OPTS), (GROUP, OPTS))
        for option in options
    }


def check_same(mine: Mapping[str, str], others: Mapping[str, str]) -> None:
    """Refuse to serve a process that is configured in another way.

    :param mine: what :func:`read_values` gives in the privileged helper.
    :param others: the same of the service.
    :raises ConfigError: naming each option that differs, with both values.
    """
    differing = [
        f"{name} is {_show(others, name)} in the service, and "
        f"{_show(mine, name)} in its privileged helper"
        for name in sorted(mine.keys() | others.keys())
        if mine.get(name) != others.get(name)
    ]
    if differing:
        reason = f"{'; '.join(differing)}; {_ADVICE}"
        raise ConfigError("configuration of the service", "", reason)


def _read(conf: cfg.ConfigOpts, group: str, name: str) -> str:
    try:
        value = conf[group][name]
    except (cfg.Error, ValueError) as err:
        return f"unreadable: {err}"
    return ",".join(value) if isinstance(value, list) else str(value)


def _show(values: Mapping[str, str], name: str) -> str:
    return repr(values[name]) if name in values else "no option"
