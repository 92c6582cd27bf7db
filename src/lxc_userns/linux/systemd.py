# SPDX-License-Identifier: Apache-2.0
"""Settings of systemd's units, and whether systemd keeps containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from lxc_userns.linux import programs

#: systemd as process 1 (:manpage:`sd_booted(3)`), a bus, and machined on it,
#: by which libvirt has systemd make the groups of its containers.
_BOOTED = "run/systemd/system"
_BUS = "run/dbus/system_bus_socket"
_MACHINED = "usr/share/dbus-1/system-services/org.freedesktop.machine1.service"
_LONGEST = 30.0


def has_machined(root: str = "/") -> bool:
    """Return whether systemd-machined can be asked for on this host's bus.

    :param root: where the host's files are.
    """
    paths = (_BOOTED, _BUS, _MACHINED)
    return all(os.path.exists(os.path.join(root, path)) for path in paths)


def set_properties(
    unit: str,
    assignments: Iterable[str],
    run: Callable[..., object] = programs.run,
) -> None:
    """Set properties of a unit, until it ends or the host is rebooted.

    Of the unit's group, what systemd was not told is lost when it is told
    something else.

    :param unit: its name, as the directory of its group is called.
    :param assignments: as ``TasksMax=100`` (:manpage:`systemctl(1)`).
    :param run: runs a program, as :func:`programs.run`.
    :raises OSError: if systemd refuses, with the reason.
    """
    argv = ["systemctl", "set-property", "--runtime", unit, *assignments]
    try:
        run(argv, timeout=_LONGEST)
    except OSError as err:
        # A program that is not there has an errno, one that fails has none.
        if err.errno is not None:
            raise
        raise OSError(f"unit {unit}: {err}") from None
