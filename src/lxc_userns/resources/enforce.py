# SPDX-License-Identifier: Apache-2.0
"""Limits of a running container: where they hold, and whether they do."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

from lxc_userns.domain.limits import ResourceLimits
from lxc_userns.linux import cgroup_files
from lxc_userns.linux.mounts import Mount, read_mounts
from lxc_userns.linux.process import Process
from lxc_userns.resources import processes, scope, settings
from lxc_userns.resources.groups import ContainerGroups, Place
from lxc_userns.resources.settings import Setting


def enforce(
    name: str, init: Process, limits: ResourceLimits, max_processes: int
) -> Iterator[str]:
    """Set the limits of a container where it cannot, and compare them.

    Of version 2, its own group has been the container's, and a descriptor of
    a file that was opened then stays writable for good: the limits are set in
    the group above, which is root's, and what is in its own does not count.
    Of version 1 its own groups are root's: what libvirt has set is compared.

    :param name: the container's name.
    :param init: its first process.
    :param limits: what its domain says.
    :param max_processes: processes and threads; 0 for no limit.
    :returns: a clause for each difference.
    :raises OSError: if systemd refuses a value, or a disk is not there.
    """
    mounts = [*read_mounts()]
    with init.opened_parent() as controller:
        groups = ContainerGroups.find(controller.cgroups, mounts)
        if groups.is_unified:
            yield from _enforce_2(name, groups, limits, max_processes)
            return
        yield from _compare_1(groups, limits)
        if max_processes:
            yield from _limit_processes_1(
                name, groups, int(controller.pid), mounts, max_processes
            )


def _enforce_2(
    name: str,
    groups: ContainerGroups,
    limits: ResourceLimits,
    max_processes: int,
) -> Iterator[str]:
    place = groups.above(name)
    if place is None:
        yield (
            f"the control group above {groups.own[''].path}, in which its "
            "limits would hold, is that of other containers too; install "
            "systemd-container, or destroy and run it again"
        )
        return
    wanted = [*settings.version_2(limits, max_processes, _numbers(limits))]
    if place.unit is not None:
        scope.apply(place.unit, wanted, limits)
    yield from apply(place, wanted)
    if max_processes:
        yield from _count(place, max_processes)


def apply(place: Place, wanted: Iterable[Setting]) -> Iterator[str]:
    """Write settings into a group, and compare what the kernel says then.

    :returns: a clause for each difference.
    """
    for setting in wanted:
        # What the kernel refuses is seen by what it says.
        if place.unit is None or not setting.is_share:
            known = _known(place.path, setting)
            with suppress(OSError):
                cgroup_files.write(place.path, known.file, known.value)
        yield from _compare(place.path, setting)


def _compare_1(
    groups: ContainerGroups, limits: ResourceLimits
) -> Iterator[str]:
    for setting in settings.version_1(limits, _numbers(limits)):
        path = groups.directory(setting.controller)
        outer = groups.outer(setting.controller)
        if path is None or outer is None:
            yield f"the host has no control groups of {setting.controller}"
        elif setting.file == settings.MEMORY_1:
            yield from _compare_memory(path, setting, limits)
        else:
            yield from _compare(
                outer.path if setting.is_share else path, setting
            )


def _compare_memory(
    path: str, setting: Setting, limits: ResourceLimits
) -> Iterator[str]:
    """Compare the memory, which may have been set anew while it ran."""
    found = cgroup_files.read(path, setting.file) or ""
    balloon = limits.balloon
    if balloon is None or not setting.is_same(str(balloon), found):
        yield from _compare(path, setting)


def _limit_processes_1(
    name: str,
    groups: ContainerGroups,
    controller: int,
    mounts: list[Mount],
    max_processes: int,
) -> Iterator[str]:
    limit = [*settings.version_2(ResourceLimits(), max_processes, {})]
    place = groups.outer("pids")
    if place is not None and place.unit is not None:
        scope.apply(place.unit, limit, ResourceLimits())
        yield from apply(place, limit)
        yield from _count(place, max_processes)
        return
    path = processes.group_for(name, mounts)
    if path is None:
        yield (
            "this host has no control groups of pids, by which its processes "
            "could be limited; boot with them, or set max_processes to 0"
        )
        return
    cgroup_files.make(path)
    yield from apply(Place(path), limit)
    yield from processes.move_all(groups, controller, path)
    yield from _count(Place(path), max_processes)


def _count(place: Place, max_processes: int) -> Iterator[str]:
    """Compare the number of processes, which may be from before the limit."""
    found = int(cgroup_files.read(place.path, "pids.current") or 0)
    if found > max_processes:
        yield (
            f"it has {found} processes and threads, promised were "
            f"{max_processes} at most"
        )


def _compare(path: str, setting: Setting) -> Iterator[str]:
    setting = _known(path, setting)
    found = cgroup_files.read(path, setting.file)
    if found is None or not setting.holds(found):
        shown = "is not there" if found is None else f"is {found!r}"
        yield f"{path}/{setting.file} {shown}, promised was {setting.value}"


def _known(path: str, setting: Setting) -> Setting:
    """Return what a setting is in a group."""
    is_there = os.path.exists(f"{path}/{setting.file}")
    return setting if is_there else setting.instead or setting


def _numbers(limits: ResourceLimits) -> dict[str, str]:
    return {disk.path: _number(disk.path) for disk in limits.disks}


def _number(path: str) -> str:
    status = os.stat(path)
    if not stat.S_ISBLK(status.st_mode):
        raise OSError(f"{path}: is not a block device; correct <blkiotune>")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
