# SPDX-License-Identifier: Apache-2.0
"""Subvolumes of btrfs.

The structures are those of ``include/uapi/linux/btrfs.h``.
"""

from __future__ import annotations

import errno
import fcntl
import struct

#: Inode number of the directory that a subvolume is.
DIRECTORY_INODE = 256

_BTRFS_IOC_GET_SUBVOL_INFO = 0x81F8943C
_BTRFS_IOC_GET_SUBVOL_ROOTREF = 0xD000943D
_INFO_BYTES = 504
_INFO_FLAGS = struct.Struct("=288xQ")
_ROOT_SUBVOL_RDONLY = 1
_ROOTREFS_BYTES = 4096
_ROOTREFS_NUMBER = struct.Struct("=4088xB")


def is_in_read_only(fd: int) -> bool:
    """Return whether a file or directory is in a read-only subvolume.

    :param fd: descriptor of it, not ``O_PATH``.
    :raises OSError: ENOTTY on another filesystem.
    """
    info = fcntl.ioctl(fd, _BTRFS_IOC_GET_SUBVOL_INFO, bytes(_INFO_BYTES))
    (flags,) = _INFO_FLAGS.unpack_from(info)
    return bool(flags & _ROOT_SUBVOL_RDONLY)


def are_in_subvolume_of(fd: int) -> bool:
    """Return whether there are subvolumes in the subvolume of a directory.

    They may be below that directory or elsewhere.

    :param fd: descriptor of it, not ``O_PATH``; on any filesystem.
    :raises OSError: EIO if the disk cannot be read.
    """
    found = bytearray(_ROOTREFS_BYTES)
    try:
        fcntl.ioctl(fd, _BTRFS_IOC_GET_SUBVOL_ROOTREF, found)
    except OSError as err:
        if err.errno == errno.EIO:
            raise
        # There are more than the structure has room for.
        return err.errno == errno.EOVERFLOW
    (number,) = _ROOTREFS_NUMBER.unpack_from(found)
    return bool(number)


def may_be_read_only(fd: int) -> bool:
    """Return whether a tree may have read-only subvolumes, or be in one.

    :param fd: descriptor of its root directory, not ``O_PATH``; on any
        filesystem.
    :raises OSError: EIO if the disk cannot be read.
    """
    if are_in_subvolume_of(fd):
        return True
    try:
        return is_in_read_only(fd)
    except OSError as err:
        if err.errno == errno.EIO:
            raise
        return False
