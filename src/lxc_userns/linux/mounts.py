# SPDX-License-Identifier: Apache-2.0
"""Bind mounts by descriptor, and what is mounted."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxc_userns.linux import libc

MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

_KEPT = os.ST_RDONLY | os.ST_NOSUID | os.ST_NOEXEC

_mount = libc.function(
    "mount",
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
)
_umount2 = libc.function("umount2", ctypes.c_char_p, ctypes.c_int)

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/PID/mountinfo`` (:manpage:`proc(5)`).

    :param number: the mount's ID.
    :param point: where it is mounted.
    :param fs_type: type of the filesystem.
    """

    number: int
    point: str
    fs_type: str


def bind(source: int, parent: int, name: str) -> None:
    """Mount a directory on ``parent/name``, without what is mounted in it.

    Device nodes on the new mount cannot be opened (``nodev``).

    :param source: descriptor of the directory.
    :param parent: descriptor of the directory that holds the mount point.
    :param name: name of the mount point, a directory and no link.
    :raises OSError: if the kernel refuses; nothing is mounted then.
    """
    target = _open(parent, name)
    try:
        _call_mount(source, target, MS_BIND)
    finally:
        os.close(target)
    try:
        # The descriptor from before is below the new mount. Flags of a bind
        # mount can only be set once it is there.
        target = _open(parent, name)
        try:
            # A remount drops what it does not repeat: nosuid of the
            # source's mount, say. The low flag bits of statvfs are mount's.
            kept = os.fstatvfs(target).f_flag & _KEPT
            flags = MS_BIND | MS_REMOUNT | MS_NODEV | kept
            _call_mount(target, target, flags)
        finally:
            os.close(target)
    except BaseException:
        unmount(parent, name)
        raise


def unmount(parent: int, name: str, *, lazy: bool = False) -> None:
    """Unmount what is mounted on ``parent/name`` topmost.

    :param parent: descriptor of the directory that holds the mount point.
    :param name: name of the mount point.
    :param lazy: detach it even if it is in use.
    :raises OSError: with ``EBUSY`` if it is in use, or something is mounted
        below it.
    """
    # A descriptor of the mount itself would keep it busy.
    path = f"/proc/self/fd/{parent}/{name}"
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    _umount2(os.fsencode(path), flags)


def mount_id(fd: int) -> int:
    """The ID of the mount that a descriptor was opened on."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            if key == "mnt_id":
                return int(value)
    raise OSError(f"/proc/self/fdinfo/{fd} has no mnt_id")


def is_mount_point(parent: int, name: str) -> bool:
    """Whether something is mounted on the directory ``parent/name``."""
    fd = _open(parent, name)
    try:
        return mount_id(fd) != mount_id(parent)
    finally:
        os.close(fd)


def read_mounts() -> Iterator[Mount]:
    """All mounts of this process, in the order they were made."""
    with open("/proc/self/mountinfo", "rb") as stream:
        for line in stream:
            before, _, after = line.partition(b" - ")
            fields = before.split()
            yield Mount(
                int(fields[0]),
                os.fsdecode(_ESCAPE.sub(_unescape, fields[4])),
                after.split()[0].decode("ascii"),
            )


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 8),))


def _open(parent: int, name: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _call_mount(source: int, target: int, flags: int) -> None:
    paths = [f"/proc/self/fd/{fd}".encode() for fd in (source, target)]
    _mount(*paths, None, flags, None)
