# SPDX-License-Identifier: Apache-2.0
"""Partition tables of disk images: which partition is the root filesystem.

Read here and not by the kernel, to which the table is hostile input, as the
image is. Sources: UEFI specification, chapter 5 (GPT and MBR); the types by
which a root filesystem is known are those of the Discoverable Partitions
Specification and ``sfdisk --list-types``.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from lxc_userns.exceptions import ImageError
from lxc_userns.rootfs.views.fstype import GPT_MAGIC, MBR_ENTRIES

#: Bytes of a sector: those of disk images, also where a disk has others.
SECTOR = 512

GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQ")
#: Bytes of the entries that are read at most; 128 of 128 bytes are usual.
_GPT_MOST = 1 << 20
_MBR_LINUX, MBR_GPT = 0x83, 0xEE
#: "Linux filesystem", which a root filesystem may be.
_LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
#: Root filesystems, by architecture.
_ROOTS: Final = frozenset(
    map(
        UUID,
        (
            "44479540-f297-41b2-9af7-d131d5f0458a",  # x86
            "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",  # x86-64
            "69dad710-2ce4-4e3c-b16c-21a1d49abed3",  # ARM
            "b921b045-1df0-41c3-af44-4c6f280d3fae",  # ARM-64
            "77055800-792c-4f94-b39a-98c91b762bb6",  # LoongArch-64
            "c31c45e6-3f39-412e-80fb-4809c4980599",  # PPC64LE
            "72ec70a6-cf74-40e6-bd49-4bda08e8f224",  # RISC-V-64
            "5eead9a9-fe09-4a1e-a1d7-520d00531306",  # S390X
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition.

    :param number: its number, from 1.
    :param start: where it begins, in bytes.
    :param size: in bytes.
    :param rank: 2 if its type says that it is a root filesystem, 1 if it is
        one of Linux, 0 for all others.
    """

    number: int
    start: int
    size: int
    rank: int

    @property
    def end(self) -> int:
        """Return where what is behind it begins, in bytes."""
        return self.start + self.size


def find_root(fd: int, path: str) -> Partition:
    """Return the partition of an image that is the root filesystem.

    The one whose type says so, or else the only one of Linux.

    :param fd: descriptor of the image, a file that has a partition table.
    :param path: the same as the caller knows it.
    :raises ImageError: if that is not exactly one, or the table is damaged.
    """
    end, partitions = os.fstat(fd).st_size, read(fd, path)
    for rank in (2, 1):
        found = [each for each in partitions if each.rank == rank]
        if len(found) > 1:
            numbers = ", ".join(str(each.number) for each in found)
            raise ImageError(
                path,
                f"has several partitions that may be the root filesystem "
                f"({numbers}); give an image of the one that is",
            )
        for each in found:
            if not 0 < each.start < each.end <= end:
                raise ImageError(
                    path,
                    f"its partition {each.number} is not within it; is the "
                    "image cut off?",
                )
            return each
    raise ImageError(
        path,
        "has a partition table without a partition of Linux; give an image "
        "of the one partition that is the root filesystem",
    )


def read(fd: int, path: str) -> Sequence[Partition]:
    """Return the partitions of an image, in the order of their numbers.

    :param fd: as for :func:`find_root`, and so is path.
    :raises ImageError: if the table is damaged.
    """
    head = os.pread(fd, 2 * SECTOR, 0)
    types = {head[place + 4] for place in MBR_ENTRIES}
    if head.startswith(GPT_MAGIC, SECTOR):
        return [*_read_gpt(fd, path, head[SECTOR:])]
    if MBR_GPT in types:
        raise ImageError(
            path,
            "its partition table is not of sectors of 512 bytes; convert it",
        )
    return [*_read_mbr(head)]


def _read_mbr(head: bytes) -> Iterator[Partition]:
    """Yield the primary partitions."""
    for number, place in enumerate(MBR_ENTRIES, 1):
        kind = head[place + 4]
        start, size = struct.unpack_from("<II", head, place + 8)
        rank = int(kind == _MBR_LINUX)
        if kind:
            yield Partition(number, start * SECTOR, size * SECTOR, rank)


def _read_gpt(fd: int, path: str, sector: bytes) -> Iterator[Partition]:
    header = GPT_HEADER.unpack_from(sector)
    _, _, length, checksum, *_, place, number, size, entries_checksum = header
    is_sound = GPT_HEADER.size <= length <= SECTOR
    is_sound = is_sound and _GPT_ENTRY.size <= size
    is_sound = is_sound and number * size <= _GPT_MOST
    if is_sound:
        # Of the header without its own checksum (bytes 16..19).
        covered = sector[:16] + bytes(4) + sector[20:length]
        is_sound = zlib.crc32(covered) == checksum
    entries = b""
    if is_sound and place * SECTOR < os.fstat(fd).st_size:
        entries = os.pread(fd, number * size, place * SECTOR)
    # Of those that the image ends in the checksum can be right.
    is_sound = is_sound and len(entries) == number * size
    if not is_sound or zlib.crc32(entries) != entries_checksum:
        raise ImageError(
            path, "its partition table is damaged; mend it by gdisk"
        )
    for index in range(number):
        kind, _, first, last = _GPT_ENTRY.unpack_from(entries, index * size)
        guid = UUID(bytes_le=kind)
        rank = 2 if guid in _ROOTS else int(guid == _LINUX)
        start, end = first * SECTOR, (last + 1) * SECTOR
        if guid.int:
            yield Partition(index + 1, start, end - start, rank)
