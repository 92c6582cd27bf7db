# SPDX-License-Identifier: Apache-2.0
"""Superblocks: what a filesystem asks for besides the device that it is on.

Whoever makes an image writes them, and the kernel does as they say: it opens
block devices of the host, and writes to them. See the kernel's
``fs/btrfs/volumes.c``, ``fs/ext4/super.c``, ``fs/xfs/xfs_mount.c`` and
``fs/erofs/super.c``. It mounts by the first superblock alone; copies of it
are for repair.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: How much of a device's beginning is looked at, in bytes.
LENGTH = 0x11000

_EXT = 0x400
_EXT_SIZES = struct.Struct("<4xI16xI4xI")
_EXT_SMALLEST_BLOCK = 1 << 10
_EXT_MOST_SHIFT = 6
_EXT_64BIT = 0x80
_EXT_HAS_JOURNAL = 0x4
_EXT_JOURNAL_DEVICE = 0x8
_EXT_MULTIPLE_MOUNT_PROTECTION = 0x100
_EXT_MOUNT_OPTIONS = slice(_EXT + 0x200, _EXT + 0x240)

_BTRFS = 0x10000
_BTRFS_ID = slice(_BTRFS + 0x20, _BTRFS + 0x30)
_BTRFS_ID_OF_DEVICE = slice(_BTRFS + 0x11B, _BTRFS + 0x12B)
_BTRFS_METADATA_UUID = 1 << 10
# Written, relocated, with an error. Others: a seed of further devices, a
# dump, in the middle of a change of its ID.
_BTRFS_ORDINARY_FLAGS = 0b111

_EROFS = 0x400
_EROFS_DEVICE_TABLE = 0x8


@dataclass(frozen=True, slots=True)
class ExtGeometry:
    """Sizes of an ext2, ext3 or ext4.

    :param block_size: bytes of a block.
    :param group_blocks: blocks of each block group but the last.
    :param blocks: blocks of all.
    """

    block_size: int
    group_blocks: int
    blocks: int


def find_objection(fs_type: str, head: bytes) -> str | None:
    """Return why a filesystem must not be mounted, None if it may be.

    :param fs_type: its type, as :mod:`~lxc_userns.rootfs.views.fstype` has it.
    :param head: the first :data:`LENGTH` bytes of its device, or all if that
        has fewer.
    :raises KeyError: if nothing is known of this type.
    """
    return _CHECKS[fs_type](head.ljust(LENGTH, b"\0"))


def btrfs_id(head: bytes) -> str:
    """Return the UUID of a btrfs, as it is in ``/sys/fs/btrfs``.

    :param head: as for :func:`find_objection`.
    """
    return str(uuid.UUID(bytes=head.ljust(LENGTH, b"\0")[_BTRFS_ID]))


def ext_geometry(head: bytes) -> ExtGeometry | None:
    """Return the sizes of an ext2, ext3 or ext4.

    :param head: as for :func:`find_objection`.
    :returns: None if these are none that the kernel would mount.
    """
    head = head.ljust(LENGTH, b"\0")
    blocks, shift, group_blocks = _EXT_SIZES.unpack_from(head, _EXT)
    (incompat,) = struct.unpack_from("<I", head, _EXT + 0x60)
    if incompat & _EXT_64BIT:
        (high,) = struct.unpack_from("<I", head, _EXT + 0x150)
        blocks |= high << 32
    if shift > _EXT_MOST_SHIFT or not group_blocks:
        return None
    return ExtGeometry(_EXT_SMALLEST_BLOCK << shift, group_blocks, blocks)


def _check_ext(head: bytes) -> str | None:
    compat, incompat = struct.unpack_from("<II", head, _EXT + 0x5C)
    journal_inode, journal_device = struct.unpack_from(
        "<II", head, _EXT + 0xE0
    )
    if incompat & _EXT_JOURNAL_DEVICE:
        return "is the journal of another filesystem"
    if journal_device or (compat & _EXT_HAS_JOURNAL and not journal_inode):
        return (
            "has its journal on another device; remove that by tune2fs -O "
            "^has_journal"
        )
    if incompat & _EXT_MULTIPLE_MOUNT_PROTECTION:
        # A mount waits for as long as the image says, 18 hours at most.
        return (
            "is for a disk that several hosts share; clear that by tune2fs "
            "-O ^mmp"
        )
    # The kernel takes them like those of mount(8), journal_dev among them.
    if head[_EXT_MOUNT_OPTIONS].strip(b"\0"):
        return (
            "has mount options in its superblock; clear them by tune2fs -E "
            "mount_opts="
        )
    return None


def _check_xfs(head: bytes) -> str | None:
    realtime_blocks, realtime_extents = struct.unpack_from(">QQ", head, 16)
    (log_start,) = struct.unpack_from(">Q", head, 48)
    if not log_start:
        return "has its log on another device; make it with a log of its own"
    if realtime_blocks or realtime_extents:
        return "has a realtime section; make it without one"
    return None


def _check_btrfs(head: bytes) -> str | None:
    (flags,) = struct.unpack_from("<Q", head, _BTRFS + 0x38)
    (devices,) = struct.unpack_from("<Q", head, _BTRFS + 0x88)
    (incompat,) = struct.unpack_from("<Q", head, _BTRFS + 0xBC)
    if devices != 1:
        return (
            f"is on {devices} devices, and an image is one; see btrfs device "
            "remove"
        )
    if flags & ~_BTRFS_ORDINARY_FLAGS:
        return (
            f"has the flags {flags:#x}: it is a seed, or a change of its "
            "UUID was not finished; see btrfstune -S and -u"
        )
    if incompat & _BTRFS_METADATA_UUID:
        return (
            "has one UUID outside and another one inside; give it one for "
            "both by btrfstune -u"
        )
    if head[_BTRFS_ID] != head[_BTRFS_ID_OF_DEVICE]:
        return "is on a device of another filesystem; see btrfs check"
    return None


def _check_erofs(head: bytes) -> str | None:
    (incompat,) = struct.unpack_from("<I", head, _EROFS + 80)
    (devices,) = struct.unpack_from("<H", head, _EROFS + 86)
    if devices or incompat & _EROFS_DEVICE_TABLE:
        return f"has data on {devices} more devices; make it without --blobdev"
    return None


def _check_squashfs(head: bytes) -> None:
    """Do nothing: the format knows no other devices."""


_CHECKS: Mapping[str, Callable[[bytes], str | None]] = {
    "ext4": _check_ext,
    "xfs": _check_xfs,
    "btrfs": _check_btrfs,
    "squashfs": _check_squashfs,
    "erofs": _check_erofs,
}
