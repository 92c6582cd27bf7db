# SPDX-License-Identifier: Apache-2.0
"""Limit of processes in version 1, where libvirt has no group for it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from lxc_userns.linux import cgroup_files
from lxc_userns.linux.mounts import Mount
from lxc_userns.resources.groups import ContainerGroups

_CONTROLLER = "pids"
_DIRECTORY = "lxc-userns"
#: Hierarchies in which libvirt has a group for each container.
_LISTED = ("memory", "freezer", "devices", "cpu")
#: How often to look for processes that were begun meanwhile. Of what makes
#: them faster than that it is better to be rid.
_PASSES = 200


def group_for(name: str, mounts: Iterable[Mount]) -> str | None:
    """Return the group of a container, which may have to be made.

    :param name: the container's name.
    :returns: None if the host has no such hierarchy of version 1.
    """
    for mount in mounts:
        if mount.fs_type == "cgroup" and _CONTROLLER in mount.fs_options:
            return posixpath.join(mount.point, _DIRECTORY, name)
    return None


def move_all(
    groups: ContainerGroups, controller: int, target: str
) -> Iterator[str]:
    """Move all processes of a container into a group.

    One that is begun meanwhile is in the group of who begins it. So if all
    that there are, are in the group, all that will ever be are.

    :param groups: the container's; its own files are root's in version 1, so
        that none of its processes is anywhere else.
    :param controller: libvirt's process in charge of it, which stays.
    :param target: the group's directory.
    :returns: a clause if it cannot be done.
    """
    source = next(filter(None, map(groups.directory, _LISTED)), None)
    if source is None:
        yield "libvirt has no control group for it"
        return
    for _ in range(_PASSES):
        # In this order: nothing leaves the group.
        outside = cgroup_files.processes(source) - {controller}
        outside -= cgroup_files.processes(target)
        if not outside:
            return
        for pid in sorted(outside):
            cgroup_files.move(pid, target)
    yield "it begins processes faster than they can be limited"
