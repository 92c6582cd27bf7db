# SPDX-License-Identifier: Apache-2.0
"""File identities: whether what is opened now is what was opened before.

An inode number alone can be that of a file made later. The file handle of
:manpage:`name_to_handle_at(2)` has the inode's generation as well, on every
filesystem that can be exported.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lxc_userns.linux import block_devices, libc, mounts

AT_EMPTY_PATH = 0x1000
MAX_HANDLE_SZ = 128

#: Filesystems whose inode numbers and handles outlive a reboot.
_LASTING = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs", "zfs"}
)


class _FileHandle(ctypes.Structure):
    """``struct file_handle``, with room for the largest."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * MAX_HANDLE_SZ),
    )


_name_to_handle_at = libc.function(
    "name_to_handle_at",
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(_FileHandle),
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
)


_open_by_handle_at = libc.function(
    "open_by_handle_at",
    ctypes.c_int,
    ctypes.POINTER(_FileHandle),
    ctypes.c_int,
)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identity of a file or directory, as kept in a record.

    :param boot: the boot in which it was read, a UUID.
    :param filesystem: the filesystem, by ``f_fsid`` (:manpage:`statvfs(3)`),
        0 for NFS and others that have none: their device number is another
        after each mount. Of a block device its number, 0 if it has a name of
        its own.
    :param inode: inode number; 0 for a block device, whose node is made anew.
    :param handle: file handle, or the name of a block device; empty if there
        is none.
    :param lasting: whether inode and handle mean the same after a reboot.
    """

    boot: str
    filesystem: int
    inode: int
    handle: str
    lasting: bool

    def is_same(self, other: FileIdentity) -> bool | None:
        """Return whether both are one file; None if a reboot hid that."""
        here = (self.inode, self.handle)
        there = (other.inode, other.handle)
        if self.boot == other.boot:
            return (self.filesystem, *here) == (other.filesystem, *there)
        if self.lasting and other.lasting:
            return here == there
        return None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FileIdentity:
        """Return what :func:`dataclasses.asdict` has made plain.

        :raises TypeError: if it is anything else.
        """
        identity = cls(**data)
        for name, kind in (
            ("boot", str),
            ("filesystem", int),
            ("inode", int),
            ("handle", str),
            ("lasting", bool),
        ):
            if type(getattr(identity, name)) is not kind:
                raise TypeError(f"identity: {name} is of another type")
        return identity


def read(fd: int) -> FileIdentity:
    """Return the identity of an open file, of any kind.

    :param fd: descriptor of it, ``O_PATH`` or not.
    """
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return _read_device(status.st_rdev)
    return FileIdentity(
        boot_id(),
        os.fstatvfs(fd).f_fsid,
        status.st_ino,
        _handle(fd),
        _is_lasting(fd),
    )


def _read_device(number: int) -> FileIdentity:
    if name := block_devices.hardware_name(number):
        return FileIdentity(boot_id(), 0, 0, name, lasting=True)
    sequence = block_devices.disk_sequence(number)
    return FileIdentity(boot_id(), number, 0, sequence, lasting=False)


@cache
def boot_id() -> str:
    """Return what the kernel calls this boot (:manpage:`random(4)`)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def reopen(fd: int, mount: int) -> int:
    """Return another ``O_PATH`` descriptor of a file, on another mount.

    :param fd: descriptor of the file.
    :param mount: descriptor of any directory on that mount, not ``O_PATH``.
    :raises OSError: if the filesystem has no handles, or the mount is of
        another one.
    """
    handle = _read_handle(fd)
    return _open_by_handle_at(mount, handle, os.O_PATH | os.O_CLOEXEC)


def _read_handle(fd: int) -> _FileHandle:
    handle = _FileHandle(handle_bytes=MAX_HANDLE_SZ)
    _name_to_handle_at(fd, b"", handle, ctypes.c_int(), AT_EMPTY_PATH)
    return handle


def _handle(fd: int) -> str:
    try:
        handle = _read_handle(fd)
    except OSError:
        return ""  # EOPNOTSUPP: it cannot be exported.
    content = bytes(handle.f_handle[: handle.handle_bytes])
    return f"{handle.handle_type}:{content.hex()}"


def _is_lasting(fd: int) -> bool:
    found = mounts.find_mount(fd)
    return found is not None and found.fs_type in _LASTING
