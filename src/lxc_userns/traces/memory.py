# SPDX-License-Identifier: Apache-2.0
"""Processes of a container that the kernel killed for want of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from lxc_userns.linux import cgroups
from lxc_userns.linux.mounts import read_mounts
from lxc_userns.linux.process import Process

#: Version 2 and version 1; see cgroup-v2.rst and cgroup-v1/memory.rst.
_FILES = ("memory.events", "memory.oom_control")
#: Groups above a container's own that it has alone: of this package, and of
#: systemd. They outlive its own.
_ALONE = (".partition", ".scope")
_SCOPE, _GROUP = "machine-lxc", ".libvirt-lxc"


def find_files(controller: int) -> list[str]:
    """Find the files that tell of kills in a container.

    :param controller: process ID of libvirt's process for it.
    :returns: none as long as that is not in a group of the container's.
    :raises ProcessLookupError: if that has ended.
    """
    with Process(controller) as process:
        own = process.cgroups
    return [
        f"{path}/{name}"
        for group in cgroups.groups(own, [*read_mounts()])
        if group.is_own and _counts_memory(group) and _is_alone(group.path)
        for path in _places(group.path)
        for name in _FILES
    ]


def count_kills(files: list[str]) -> int:
    """Return how many processes were killed, as far as that is told still.

    :param files: what :func:`find_files` gave.
    """
    return max(map(_read, files), default=0)


def read_kills(controller: int) -> int:
    """Return how many processes of a container were killed.

    :param controller: process ID of libvirt's process for it.
    :raises ProcessLookupError: if that has ended.
    """
    return count_kills(find_files(controller))


def _counts_memory(group: cgroups.Group) -> bool:
    return group.is_unified or "memory" in group.hierarchy.split(",")


def _is_alone(path: str) -> bool:
    """Return whether a group was made by libvirt, or systemd for it."""
    return any(
        name.startswith(_SCOPE) or name.endswith(_GROUP)
        for name in path.split("/")[-2:]
    )


def _places(path: str) -> Iterator[str]:
    yield path
    above = os.path.dirname(path)
    if above.endswith(_ALONE):
        yield above


def _read(path: str) -> int:
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        for line in file:
            key, _, number = line.partition(" ")
            if key == "oom_kill":
                return int(number)
    return 0
