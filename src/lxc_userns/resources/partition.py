# SPDX-License-Identifier: Apache-2.0
"""A group above libvirt's own, for containers that systemd makes none for.

Without systemd-machined libvirt makes the group of a container, of version 2,
directly in one that all share. A ``<partition>`` of its own puts one in
between, which never belongs to the container.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from contextlib import suppress

from lxc_userns.exceptions import InstanceError
from lxc_userns.linux import cgroup_files
from lxc_userns.linux.mounts import Mount
from lxc_userns.resources import processes
from lxc_userns.resources.access import HOST, HostAccess
from lxc_userns.resources.groups import partition_name

#: Where libvirt keeps containers unless it is told otherwise.
_PARENT = "/machine"
#: What libvirt and this package limit by.
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


def find(name: str, host: HostAccess = HOST) -> str | None:
    """Return the ``<partition>`` that a domain needs, None if it needs none.

    :param name: the container's name.
    :param host: how the host is reached.
    """
    if _unified(host.read_mounts()) is None or host.has_machined():
        return None
    return f"{_PARENT}/{partition_name(name)}"


def make(name: str, max_processes: int, host: HostAccess = HOST) -> None:
    """Make the group of a container's partition, unless it needs none.

    Its processes are limited from the first on; whether they are, and the
    rest, is seen to when it runs.

    :param name: the container's name.
    :param max_processes: processes and threads; 0 for no limit.
    :param host: how the host is reached.
    :raises InstanceError: if it cannot be made.
    """
    partition, top = find(name, host), _unified(host.read_mounts())
    if partition is None or top is None:
        return
    path = posixpath.join(top, partition.lstrip("/"))
    try:
        cgroup_files.make(path)
    except OSError as err:
        reason = f"{path}: cannot be made: {err.strerror}"
        raise InstanceError(name, f"its control group {reason}") from err
    for group in (top, posixpath.dirname(path)):
        cgroup_files.enable(group, _CONTROLLERS)
    if max_processes:
        with suppress(OSError):
            host.write(path, "pids.max", str(max_processes))


def remove(name: str, host: HostAccess = HOST) -> None:
    """Remove all groups that were made for a container that has ended.

    Safe to repeat; one in which something still ends is left.

    :param name: the container's name.
    :param host: how the host is reached.
    """
    mounts = [*host.read_mounts()]
    top = _unified(mounts)
    if top is not None:
        path = posixpath.join(top, _PARENT.lstrip("/"), partition_name(name))
        cgroup_files.remove(path)
    limited = processes.find_group(name, mounts)
    if limited is not None:
        cgroup_files.remove(limited)


def _unified(mounts: Iterable[Mount]) -> str | None:
    """Return where version 2 is mounted, None if libvirt uses version 1."""
    points = []
    for mount in mounts:
        if mount.fs_type == "cgroup" and "memory" in mount.fs_options:
            return None
        if mount.fs_type == "cgroup2":
            points.append(mount.point)
    return points[0] if points else None
