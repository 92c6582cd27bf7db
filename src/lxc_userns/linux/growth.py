# SPDX-License-Identifier: Apache-2.0
"""Growth of mounted filesystems, by the calls of their drivers.

The structures are those of the kernel's ``fs/xfs/libxfs/xfs_fs.h`` and
``include/uapi/linux/btrfs.h``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

# Native, for the numbers have the sizes in them.
_GEOMETRY = struct.Struct("@8I4Q16s2Ii4I0Q")
_GROW_XFS = struct.Struct("@QI0Q")
_BTRFS_INFO = struct.Struct("=QQ1008x")
_BTRFS_DEVICE = struct.Struct("=Q16xQQ4056x")
_BTRFS_ARGUMENTS = struct.Struct("=q4088s")


def _number(direction: int, group: int, number: int, size: int) -> int:
    """Return the number of a call, as ``_IOC`` makes it."""
    return direction << 30 | size << 16 | group << 8 | number


_WRITE, _READ = 1, 2
_XFS_IOC_FSGEOMETRY_V1 = _number(_READ, ord("X"), 100, _GEOMETRY.size)
_XFS_IOC_FSGROWFSDATA = _number(_WRITE, ord("X"), 110, _GROW_XFS.size)
_BTRFS_IOC_RESIZE = _number(_WRITE, 0x94, 3, _BTRFS_ARGUMENTS.size)
_BTRFS_IOC_DEV_INFO = _number(_READ | _WRITE, 0x94, 30, _BTRFS_DEVICE.size)
_BTRFS_IOC_FS_INFO = _number(_READ, 0x94, 31, _BTRFS_INFO.size)


@dataclass(frozen=True, slots=True)
class XfsGeometry:
    """Sizes of an xfs.

    :param block_size: bytes of a block.
    :param group_blocks: blocks of each allocation group but the last.
    :param blocks: blocks of all.
    :param inodes_percent: how much of it inodes may take.
    """

    block_size: int
    group_blocks: int
    blocks: int
    inodes_percent: int


def xfs_geometry(fd: int) -> XfsGeometry:
    """Return the sizes of a mounted xfs.

    :param fd: descriptor of a file in it, not ``O_PATH``.
    """
    found = _GEOMETRY.unpack(
        fcntl.ioctl(fd, _XFS_IOC_FSGEOMETRY_V1, bytes(_GEOMETRY.size))
    )
    return XfsGeometry(found[0], found[2], found[8], found[7])


def grow_xfs(fd: int, geometry: XfsGeometry, blocks: int) -> None:
    """Grow an xfs.

    :param fd: as for :func:`xfs_geometry`.
    :param geometry: as it is.
    :param blocks: how many it is to have.
    :raises OSError: EPERM without CAP_SYS_ADMIN, EROFS if it is read-only, EIO
        if its device has fewer.
    """
    asked = _GROW_XFS.pack(blocks, geometry.inodes_percent)
    fcntl.ioctl(fd, _XFS_IOC_FSGROWFSDATA, asked)


def btrfs_device(fd: int) -> tuple[int, int]:
    """Return number and size, in bytes, of what a btrfs has of its device.

    :param fd: descriptor of a file in it, not ``O_PATH``; it has one device.
    """
    info = fcntl.ioctl(fd, _BTRFS_IOC_FS_INFO, bytes(_BTRFS_INFO.size))
    number, _ = _BTRFS_INFO.unpack(info)
    device = bytearray(_BTRFS_DEVICE.pack(number, 0, 0))
    fcntl.ioctl(fd, _BTRFS_IOC_DEV_INFO, device)
    return number, _BTRFS_DEVICE.unpack(device)[2]


def grow_btrfs(fd: int, number: int) -> None:
    """Grow a btrfs to all of a device.

    :param fd: as for :func:`btrfs_device`.
    :param number: the device's.
    :raises OSError: EPERM without CAP_SYS_ADMIN, EROFS if it is read-only,
        EBUSY if it is balanced or the like.
    """
    asked = bytearray(_BTRFS_ARGUMENTS.pack(0, b"%d:max" % number))
    # What else goes on is told by a number above 0.
    if fcntl.ioctl(fd, _BTRFS_IOC_RESIZE, asked):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
