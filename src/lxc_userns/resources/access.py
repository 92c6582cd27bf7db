# SPDX-License-Identifier: Apache-2.0
"""Access to the host's control groups, to systemd and to disks."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from lxc_userns.linux import cgroup_files, systemd
from lxc_userns.linux.mounts import Mount, read_mounts


def read_number(path: str) -> str:
    """Return the number of a disk, as ``8:0``.

    :param path: its device node.
    :raises OSError: if there is none, or it is not a block device.
    """
    status = os.stat(path)
    if not stat.S_ISBLK(status.st_mode):
        raise OSError(f"{path}: is not a block device; correct <blkiotune>")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAccess:
    """Ways by which limits reach the host, each of which can be replaced.

    :param read_mounts: lists what is mounted.
    :param write: as :func:`cgroup_files.write`.
    :param processes: as :func:`cgroup_files.processes`.
    :param move: as :func:`cgroup_files.move`.
    :param has_machined: as :func:`systemd.has_machined`.
    :param set_properties: as :func:`systemd.set_properties`.
    :param read_number: as :func:`read_number`.
    :param sleep: waits, for seconds.
    """

    read_mounts: Callable[[], Iterable[Mount]] = read_mounts
    write: Callable[[str, str, str], object] = cgroup_files.write
    processes: Callable[[str], set[int]] = cgroup_files.processes
    move: Callable[[int, str], object] = cgroup_files.move
    has_machined: Callable[[], bool] = systemd.has_machined
    set_properties: Callable[[str, Iterable[str]], object] = (
        systemd.set_properties
    )
    read_number: Callable[[str], str] = read_number
    sleep: Callable[[float], object] = time.sleep


#: The package's own ways.
HOST: Final = HostAccess()
