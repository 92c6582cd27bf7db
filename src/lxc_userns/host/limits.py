# SPDX-License-Identifier: Apache-2.0
"""Limits that all containers share with the host's root."""

from __future__ import annotations

from collections.abc import Mapping

from lxc_userns.findings import Finding
from lxc_userns.host.check import passed, warned
from lxc_userns.linux import ucounts

#: Inotify instances: some dozens for each of hundreds of containers.
_ENOUGH = 8192
_SYSCTL = "fs.inotify.max_user_instances"


def check() -> Finding:
    """Return whether what all containers share is enough for many."""
    return evaluate(ucounts.read())


def evaluate(found: Mapping[str, int]) -> Finding:
    """Return whether what all containers share is enough for many.

    :param found: limits of the host's root, by name.
    """
    number = found.get("max_inotify_instances")
    if number is None:
        return warned(
            f"sysctl {_SYSCTL} is not known",
            "see that /proc is mounted, and this is Linux 4.13 or later",
        )
    if number < _ENOUGH:
        return warned(
            f"sysctl {_SYSCTL} is {number}, of which each container may use "
            "half, and all of them with the host's root share it",
            f"raise sysctl {_SYSCTL} to {_ENOUGH} or more, in /etc/sysctl.d",
        )
    return passed(f"sysctl {_SYSCTL} is {number}")
