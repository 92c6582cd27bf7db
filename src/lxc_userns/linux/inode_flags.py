# SPDX-License-Identifier: Apache-2.0
"""Inode flags (:manpage:`FS_IOC_SETFLAGS(2const)`, :manpage:`chattr(1)`)."""

from __future__ import annotations

import fcntl
import struct

FS_IMMUTABLE_FL = 0x00000010
FS_APPEND_FL = 0x00000020

# The numbers say long, the kernel reads and writes an int (the man page's
# own note), so the upper half of the buffer stays as we made it.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_LONG = struct.Struct("=q")


def get(fd: int) -> int:
    """Return the flags of an open file or directory.

    :raises OSError: ENOTTY if the filesystem has none.
    """
    buffer = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, _LONG.pack(0))
    return int(_LONG.unpack(buffer)[0])


def set(fd: int, flags: int) -> None:
    """Set the flags of an open file or directory.

    :raises OSError: EPERM without CAP_LINUX_IMMUTABLE.
    """
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, _LONG.pack(flags))
