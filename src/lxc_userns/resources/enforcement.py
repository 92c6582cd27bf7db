# SPDX-License-Identifier: Apache-2.0
"""Limits of a running container: where they hold, and whether they do.

Of version 2, a container's own group has been the container's, and a
descriptor of a file that was opened then stays writable for good: the limits
are set in the group above, which is root's, and what is in its own does not
count. Of version 1 its own groups are root's, and what libvirt has set there
counts; only for processes it sets nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lxc_userns.domain.limits import ResourceLimits
from lxc_userns.linux import cgroup_files
from lxc_userns.linux.mounts import Mount
from lxc_userns.linux.process import Process
from lxc_userns.resources import processes, scope, settings
from lxc_userns.resources.access import HOST, HostAccess
from lxc_userns.resources.groups import ContainerGroups, Place
from lxc_userns.resources.settings import Setting


@dataclass(frozen=True, slots=True)
class _Container:
    """A running container, and what it may have.

    :param name: its name.
    :param controller: libvirt's process in charge of it.
    :param groups: that one's control groups.
    :param mounts: what is mounted on the host.
    :param limits: what its domain says.
    :param max_processes: processes and threads; 0 for no limit.
    :param host: how the host is reached.
    """

    name: str
    controller: int
    groups: ContainerGroups
    mounts: tuple[Mount, ...]
    limits: ResourceLimits
    max_processes: int
    host: HostAccess


def enforce(
    name: str,
    init: Process,
    limits: ResourceLimits,
    max_processes: int,
    host: HostAccess = HOST,
) -> list[str]:
    """Set the limits of a container where it cannot, and compare them.

    :param name: the container's name.
    :param init: its first process.
    :param limits: what its domain says.
    :param max_processes: processes and threads; 0 for no limit.
    :param host: how the host is reached.
    :returns: a clause for each difference.
    :raises OSError: if systemd refuses a value, or a disk is not there.
    """
    with _opened(name, init, limits, max_processes, host) as container:
        if container.groups.is_unified:
            _set_2(container)
        elif max_processes:
            _limit_processes_1(container)
        return [*_differences(container)]


def differences(
    name: str,
    init: Process,
    limits: ResourceLimits,
    max_processes: int = 0,
    host: HostAccess = HOST,
) -> list[str]:
    """Compare the limits of a container, and change nothing.

    Parameters, result and errors are those of :func:`enforce`.
    """
    with _opened(name, init, limits, max_processes, host) as container:
        return [*_differences(container)]


@contextmanager
def _opened(
    name: str,
    init: Process,
    limits: ResourceLimits,
    max_processes: int,
    host: HostAccess,
) -> Iterator[_Container]:
    mounts = tuple(host.read_mounts())
    with init.opened_parent() as controller:
        groups = ContainerGroups.find(controller.cgroups, mounts)
        yield _Container(
            name,
            int(controller.pid),
            groups,
            mounts,
            limits,
            max_processes,
            host,
        )


def _set_2(container: _Container) -> None:
    place = container.groups.above(container.name)
    if place is not None:
        _set(container, place, _wanted_2(container), container.limits)


def _limit_processes_1(container: _Container) -> None:
    name, groups = container.name, container.groups
    place = processes.find_place(name, groups, container.mounts)
    if place is None:
        return
    if place.unit is None:
        cgroup_files.make(place.path)
    _set(container, place, _processes(container), ResourceLimits())
    if place.unit is None:
        processes.move_all(
            groups, container.controller, place.path, container.host
        )


def _set(
    container: _Container,
    place: Place,
    wanted: Iterable[Setting],
    limits: ResourceLimits,
) -> None:
    wanted = [*wanted]
    if place.unit is not None:
        assignments = [*scope.list_assignments(wanted, limits)]
        if assignments:
            container.host.set_properties(place.unit, assignments)
    for setting in wanted:
        if place.unit is None or not setting.is_share:
            known = _known(place.path, setting)
            # What the kernel refuses is seen by what it says.
            with suppress(OSError):
                container.host.write(place.path, known.file, known.value)


def _differences(container: _Container) -> Iterator[str]:
    if container.groups.is_unified:
        yield from _differences_2(container)
    else:
        yield from _differences_1(container)
        if container.max_processes:
            yield from _processes_1(container)


def _differences_2(container: _Container) -> Iterator[str]:
    place = container.groups.above(container.name)
    if place is None:
        yield (
            f"the control group above {container.groups.own[''].path}, in "
            "which its limits would hold, is that of other containers too; "
            "install systemd-container, or destroy and run it again"
        )
        return
    for setting in _wanted_2(container):
        yield from _compare(place.path, setting)
    yield from _count(place, container)


def _differences_1(container: _Container) -> Iterator[str]:
    groups, limits = container.groups, container.limits
    for setting in settings.version_1(limits, _numbers(container)):
        path = groups.directory(setting.controller)
        outer = groups.outer(setting.controller)
        if path is None or outer is None:
            yield f"the host has no control groups of {setting.controller}"
            continue
        found = [*_compare(outer.path if setting.is_share else path, setting)]
        if found and setting.file == settings.MEMORY_1 and limits.balloon:
            # It may have been set anew while it ran.
            anew = settings.of_memory_1(limits.balloon)
            found = found if [*_compare(path, anew)] else []
        yield from found


def _processes_1(container: _Container) -> Iterator[str]:
    name, groups = container.name, container.groups
    place = processes.find_place(name, groups, container.mounts)
    if place is None:
        yield (
            "this host has no control groups of pids, by which its processes "
            "could be limited; boot with them, or set max_processes to 0"
        )
        return
    for setting in _processes(container):
        yield from _compare(place.path, setting)
    yield from _count(place, container)
    if place.unit is None and not processes.are_all_inside(
        groups, container.controller, place.path, container.host
    ):
        yield "it begins processes faster than they can be limited"


def _count(place: Place, container: _Container) -> Iterator[str]:
    """Compare the number of processes, which may be from before the limit."""
    found = int(cgroup_files.read(place.path, "pids.current") or 0)
    if found > container.max_processes > 0:
        yield (
            f"it has {found} processes and threads, promised were "
            f"{container.max_processes} at most"
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


def _wanted_2(container: _Container) -> Iterator[Setting]:
    return settings.version_2(
        container.limits, container.max_processes, _numbers(container)
    )


def _processes(container: _Container) -> Iterator[Setting]:
    """Give the limit of processes alone, which is the same in both."""
    return settings.version_2(ResourceLimits(), container.max_processes, {})


def _numbers(container: _Container) -> dict[str, str]:
    read, disks = container.host.read_number, container.limits.disks
    return {disk.path: read(disk.path) for disk in disks}
