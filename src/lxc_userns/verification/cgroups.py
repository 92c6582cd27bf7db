# SPDX-License-Identifier: Apache-2.0
"""Control groups that the root of a container can write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cache, partial

from lxc_userns.linux import cgroups
from lxc_userns.linux.mounts import Mount, read_mounts
from lxc_userns.linux.process import Process, Rows


def writable(
    init: Process, host_mounts: list[Mount]
) -> Iterator[tuple[cgroups.Group, list[str]]]:
    """Yield the files that a container could write, and had better not.

    In its own group it may have what the kernel says that can be delegated.
    A hierarchy without controllers is only for who wants to keep track of
    processes; nothing depends on it but the program that it can name.

    What its group is is known from libvirt's process for it, which is in it
    and out of reach: the container may have moved its own to groups below.

    :param init: its first process, in a user namespace of its own.
    :param host_mounts: what is mounted on the host.
    :returns: groups, and the names in each.
    """
    with init.opened_parent() as controller:
        groups = [*cgroups.groups(controller.cgroups, host_mounts)]
    # Nearly all files are root's, a thousand and more.
    has_user = cache(partial(_covers, init.uid_map))
    has_group = cache(partial(_covers, init.gid_map))

    def writes(status: os.stat_result) -> bool:
        """Return whether the container's root can write to a file."""
        mode = status.st_mode
        return bool(
            mode & stat.S_IWOTH
            or (mode & stat.S_IWUSR and has_user(status.st_uid))
            or (mode & stat.S_IWGRP and has_group(status.st_gid))
        )

    delegated = cgroups.delegated() | {"."}
    for group in groups:
        names = cgroups.writable(group, writes)
        if not group.controls:
            names = [each for each in names if each == cgroups.RELEASE_AGENT]
        elif group.is_unified and group.is_own:
            names = [each for each in names if each not in delegated]
        if names:
            yield group, names


def revoke(init: Process) -> list[str]:
    """Make what a container could write, and had better not, root's again.

    Under version 2 libvirt 9.0 gives it all files of its group, the limits
    among them (virCgroupV2SetOwner). For the host's own limits to hold, only
    what is delegated has to stay.

    :param init: its first process.
    :returns: the paths of the files.
    :raises OSError: if one cannot be had.
    """
    with Process("self") as this:
        if init.user_namespace == this.user_namespace:
            return []  # Everything is root's, and it is the host's.
    taken = []
    for group, names in writable(init, [*read_mounts()]):
        cgroups.give_to_root(group, names)
        taken += [f"{group.path}/{name}" for name in names]
    return taken


def _covers(rows: Rows, host_id: int) -> bool:
    return any(first <= host_id < first + n for _, first, n in rows)
