# SPDX-License-Identifier: Apache-2.0
"""Limit of processes in version 1, where libvirt has no group for it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from lxc_userns.linux.mounts import Mount
from lxc_userns.resources.access import HOST, HostAccess
from lxc_userns.resources.groups import ContainerGroups, Place

_CONTROLLER = "pids"
_DIRECTORY = "lxc-userns"
#: Hierarchies in which libvirt has a group for each container.
_LISTED = ("memory", "freezer", "devices", "cpu")
#: How often to look for processes that were begun meanwhile. Of what makes
#: them faster than that it is better to be rid.
_PASSES = 200
#: Seconds for a process that is exiting to get on with it.
_PAUSE = 0.05


def find_group(name: str, mounts: Iterable[Mount]) -> str | None:
    """Return the group of our own for a container, which may not be there.

    :param name: the container's name.
    :returns: None if the host has no such hierarchy of version 1.
    """
    for mount in mounts:
        if mount.fs_type == "cgroup" and _CONTROLLER in mount.fs_options:
            return posixpath.join(mount.point, _DIRECTORY, name)
    return None


def find_place(
    name: str, groups: ContainerGroups, mounts: Iterable[Mount]
) -> Place | None:
    """Return where the limit of processes holds: systemd's scope, or ours."""
    limits, path = groups.outer(_LISTED[0]), groups.directory(_CONTROLLER)
    unit = None if limits is None else limits.unit
    # libvirt makes none below that of systemd here.
    if unit is not None and path and posixpath.basename(path) == unit:
        return Place(path, unit)
    path = find_group(name, mounts)
    return None if path is None else Place(path)


def move_all(
    groups: ContainerGroups,
    controller: int,
    target: str,
    host: HostAccess = HOST,
) -> None:
    """Move all processes of a container into a group, as far as that goes.

    :param groups: the container's.
    :param controller: libvirt's process in charge of it, which stays.
    :param target: the group's directory.
    :param host: how the host is reached.
    """
    for outside in _looks(groups, controller, target, host):
        for pid in sorted(outside):
            host.move(pid, target)


def are_all_inside(
    groups: ContainerGroups,
    controller: int,
    target: str,
    host: HostAccess = HOST,
) -> bool:
    """Return whether all processes of a container are in a group.

    A process that is begun is in the group of who begins it. So if all that
    there are were in the group once, all that will ever be are.
    """
    return any(not each for each in _looks(groups, controller, target, host))


def _looks(
    groups: ContainerGroups, controller: int, target: str, host: HostAccess
) -> Iterator[set[int]]:
    """Give the processes outside of a group, until there are none.

    Each look may show one as outside that has ended meanwhile, and needs
    another look. The kernel moves none that is exiting, and shows it until it
    has given back its memory (``cgroup_migrate_add_task``, ``do_exit``): a
    look with nothing new waits for those.
    """
    seen: set[int] = set()
    for _ in range(_PASSES):
        outside = _find_outside(groups, controller, target, host)
        yield outside
        if not outside:
            return
        if outside <= seen:
            host.sleep(_PAUSE)
        seen |= outside


def _find_outside(
    groups: ContainerGroups, controller: int, target: str, host: HostAccess
) -> set[int]:
    """Find the processes of a container that are not in a group.

    :param groups: the container's; its own files are root's in version 1, so
        that none of its processes is anywhere else.
    """
    source = next(filter(None, map(groups.directory, _LISTED)), None)
    if source is None:
        return set()
    # In this order: nothing leaves the group, but by ending.
    found = host.processes(source) - {controller}
    return found - host.processes(target)
