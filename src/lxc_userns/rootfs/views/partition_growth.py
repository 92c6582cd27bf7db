# SPDX-License-Identifier: Apache-2.0
"""Growth of the last partition of an image to the image's end.

Its table is written anew so that whoever reads it sees the same. Sources: as
for :mod:`~lxc_userns.rootfs.views.partitions`.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lxc_userns.rootfs.views import partitions
from lxc_userns.rootfs.views.fstype import GPT_MAGIC, MBR_ENTRIES
from lxc_userns.rootfs.views.partitions import (
    GPT_HEADER,
    MBR_GPT,
    SECTOR,
    Partition,
)

#: What the kernel writes to a file at once, whatever ends the process: with a
#: table changed in no more than this, there is the old one or the new one.
_AT_ONCE = 4096
_MOST_SECTORS = (1 << 32) - 1
#: The first sector that the entries of a GPT can begin at.
_FIRST_ENTRIES = 2
#: Where in an entry the number of the last sector is.
_LAST_SECTOR = 40


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Changes of a table.

    :param writes: places and bytes, in the order in which they have to be on
        disk. The last alone makes the difference.
    :param end: where the partition ends then, in bytes.
    """

    writes: Sequence[tuple[int, bytes]]
    end: int


def grow(fd: int, path: str, place: Partition) -> Partition:
    """Grow a partition as far as can be, and return what it is then.

    :param fd: descriptor of the image, for writing; no one else does.
    :param path: the same as the caller knows it.
    :param place: the partition.
    :raises OSError: if it cannot be written.
    """
    rewrite = plan(fd, path, place)
    if rewrite is None:
        return place
    for where, data in rewrite.writes:
        if os.pwrite(fd, data, where) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    return replace(place, size=rewrite.end - place.start)


def plan(fd: int, path: str, place: Partition) -> Rewrite | None:
    """Plan how a partition is grown; None: it stays as it is.

    It does if another is behind it, it ends where the image does, or its table
    is not as such tables usually are.

    :param fd: as for :func:`grow`, and so is the rest.
    """
    for each in partitions.read(fd, path):
        if each.number != place.number and each.end > place.start:
            return None
    sectors = os.fstat(fd).st_size // SECTOR
    head = os.pread(fd, _AT_ONCE, 0)
    if head.startswith(GPT_MAGIC, SECTOR):
        return _plan_gpt(fd, head, place, sectors)
    return _plan_mbr(head, place, sectors)


def _plan_mbr(head: bytes, place: Partition, sectors: int) -> Rewrite | None:
    made = bytearray(head[:SECTOR])
    start = place.start // SECTOR
    # Its length is a number of 32 bits.
    end = min(sectors, start + _MOST_SECTORS)
    if end <= place.end // SECTOR:
        return None
    entry = MBR_ENTRIES[place.number - 1]
    struct.pack_into("<I", made, entry + 12, end - start)
    return Rewrite([(0, bytes(made))], end * SECTOR)


def _plan_gpt(
    fd: int, head: bytes, place: Partition, sectors: int
) -> Rewrite | None:
    """Plan the changes of a table that was read, and so is sound."""
    header = GPT_HEADER.unpack_from(head, SECTOR)
    magic, revision, length, _, zero, own, _, first, _, guid = header[:10]
    begin, count, size, _ = header[10:]
    row = (place.number - 1) * size
    kinds = [head[each + 4] for each in MBR_ENTRIES]
    if (
        own != 1
        or length != GPT_HEADER.size
        or begin < _FIRST_ENTRIES
        or begin * SECTOR + row + size > len(head)
        # A hybrid, of which each half is for another reader.
        or sorted(kinds) != [0, 0, 0, MBR_GPT]
    ):
        return None
    entries = bytearray(os.pread(fd, count * size, begin * SECTOR))
    # The copy of the table is at the end, and its header the last sector.
    last = sectors - 1
    copy = last - -(-len(entries) // SECTOR)
    if copy <= place.end // SECTOR:
        return None
    struct.pack_into("<Q", entries, row + _LAST_SECTOR, copy - 1)

    def pack(own: int, other: int, begin: int) -> bytes:
        fields = [magic, revision, length, 0, zero, own, other, first]
        fields += [copy - 1, guid, begin, count, size, zlib.crc32(entries)]
        fields[3] = zlib.crc32(GPT_HEADER.pack(*fields))
        return GPT_HEADER.pack(*fields)

    made = bytearray(head)
    protective = MBR_ENTRIES[kinds.index(MBR_GPT)]
    struct.pack_into("<I", made, protective + 12, min(last, _MOST_SECTORS))
    made[SECTOR : SECTOR + GPT_HEADER.size] = pack(1, last, begin)
    struct.pack_into("<Q", made, begin * SECTOR + row + _LAST_SECTOR, copy - 1)
    return Rewrite(
        [
            (copy * SECTOR, bytes(entries)),
            (last * SECTOR, pack(last, 1, copy)),
            (0, bytes(made)),
        ],
        copy * SECTOR,
    )
