# SPDX-License-Identifier: Apache-2.0
"""Types of disk images, by the magic numbers of formats.

An image is hostile input, so no library in C reads it as root, before the
kernel has to.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

#: How much of an image's beginning is looked at, in bytes.
LENGTH = 0x10048

_EXT_MAGIC = 0xEF53
_EXT_END = 0x450
_EXT_MOST_LOG_BLOCK_SIZE = 6
_EXT_LAST_REVISION = 1
_MBR_SIGNATURE = b"\x55\xaa"
#: Where the entries of a master boot record are, which have 16 bytes each.
MBR_ENTRIES = range(0x1BE, 0x1FE, 16)
#: How a GUID partition table begins, in the second sector.
GPT_MAGIC = b"EFI PART"

# See the kernel's Documentation/filesystems, and blkid(8) for the idea.
_FILESYSTEMS: Mapping[str, tuple[int, bytes]] = {
    "xfs": (0, b"XFSB"),
    "btrfs": (0x10040, b"_BHRfS_M"),
    "squashfs": (0, b"hsqs"),
    "erofs": (0x400, b"\xe2\xe1\xf5\xe0"),
}
_OTHERS: Mapping[str, tuple[int, bytes]] = {
    "a qcow2 image": (0, b"QFI\xfb"),
    "a VMDK image": (0, b"KDMV"),
    "a VHDX image": (0, b"vhdxfile"),
    "encrypted (LUKS)": (0, b"LUKS\xba\xbe"),
    "a physical volume of LVM": (0x218, b"LVM2 001"),
    "a tar archive": (257, b"ustar"),
    "compressed by gzip": (0, b"\x1f\x8b"),
    "compressed by xz": (0, b"\xfd7zXZ\0"),
    "compressed by zstd": (0, b"\x28\xb5\x2f\xfd"),
}

#: Formats of disks for virtual machines, and what qemu-img(1) calls them.
OF_QEMU: Mapping[str | None, str] = {
    "a qcow2 image": "qcow2",
    "a VMDK image": "vmdk",
    "a VHDX image": "vhdx",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """Magic numbers of an image.

    :param filesystems: types of filesystem, usually one; ``ext4`` stands for
        ext2 and ext3 too.
    :param is_partitioned: whether it has a partition table.
    :param other: what else it is, as ``a qcow2 image``.
    """

    filesystems: tuple[str, ...]
    is_partitioned: bool
    other: str | None


def read(head: bytes) -> Signature:
    """Find the marks.

    :param head: its first :data:`LENGTH` bytes, or all if it has fewer.
    """
    found = [name for name, mark in _FILESYSTEMS.items() if _has(head, mark)]
    if _is_ext(head):
        found.append("ext4")
    others = (name for name, mark in _OTHERS.items() if _has(head, mark))
    return Signature(tuple(found), _is_partitioned(head), next(others, None))


def _has(head: bytes, mark: tuple[int, bytes]) -> bool:
    return head.startswith(mark[1], mark[0])


def _is_ext(head: bytes) -> bool:
    # Its own magic is short, and would be found in compressed data too.
    if len(head) < _EXT_END:
        return False
    (log_block_size,) = struct.unpack_from("<I", head, 0x418)
    (magic,) = struct.unpack_from("<H", head, 0x438)
    (revision,) = struct.unpack_from("<I", head, 0x44C)
    return bool(
        magic == _EXT_MAGIC
        and log_block_size <= _EXT_MOST_LOG_BLOCK_SIZE
        and revision <= _EXT_LAST_REVISION
    )


def _is_partitioned(head: bytes) -> bool:
    if any(_has(head, (size, GPT_MAGIC)) for size in (512, 4096)):
        return True
    if not _has(head, (510, _MBR_SIGNATURE)):
        return False
    # The boot code of a filesystem ends so too; a partition is active or
    # not, and has a type.
    entries = [head[start : start + 16] for start in MBR_ENTRIES]
    return all(entry[0] in (0, 0x80) for entry in entries) and any(
        entry[4] for entry in entries
    )
