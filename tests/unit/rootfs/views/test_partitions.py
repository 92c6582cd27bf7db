# SPDX-License-Identifier: Apache-2.0
"""Partition tables: which partition is the root filesystem."""

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lxc_userns.exceptions import ImageError
from lxc_userns.rootfs.views import partitions
from lxc_userns.rootfs.views.partitions import SECTOR, Partition

ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
EFI = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BOOT = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
SECTORS = 4096

Entry = tuple[str, int, int]


def mbr(*entries: tuple[int, int, int]) -> bytes:
    """A table of type, first sector and number of sectors."""
    made = bytearray(SECTOR)
    for number, (kind, start, size) in enumerate(entries):
        place = 0x1BE + 16 * number
        made[place + 4] = kind
        struct.pack_into("<II", made, place + 8, start, size)
    made[510:] = b"\x55\xaa"
    return bytes(made)


def gpt(
    *entries: Entry,
    number: int = 128,
    size: int = 128,
    length: int = 92,
    spoil: Callable[[bytearray], None] = lambda _: None,
) -> bytes:
    """A table of type, first and last sector, with the sectors before it."""
    rows = b"".join(
        struct.pack(
            f"<16s16sQQ{size - 48}x", UUID(kind).bytes_le, b"u", first, last
        )
        for kind, first, last in entries
    )
    rows += bytes(min(number * size, 1 << 14) - len(rows))
    header = bytearray(SECTOR)
    fields = (1, SECTORS - 1, 34, SECTORS - 34, b"d", 2, number, size)
    struct.pack_into("<8sIII4x", header, 0, b"EFI PART", 1 << 16, length, 0)
    struct.pack_into("<QQQQ16sQII", header, 24, *fields)
    struct.pack_into("<I", header, 88, zlib.crc32(rows))
    checksum = zlib.crc32(bytes(header[: min(length, SECTOR)]))
    struct.pack_into("<I", header, 16, checksum)
    spoil(header)
    return mbr((0xEE, 1, SECTORS - 1)) + bytes(header) + rows


@pytest.fixture
def find(tmp_path: Path) -> Callable[[bytes], Partition]:
    """Find the root filesystem of an image that begins so."""
    file = tmp_path / "disk"

    def call(head: bytes) -> Partition:
        file.write_bytes(head)
        os.truncate(file, SECTORS * SECTOR)
        fd = os.open(file, os.O_RDONLY)
        try:
            return partitions.find_root(fd, "disk")
        finally:
            os.close(fd)

    return call


@pytest.mark.parametrize(
    ("head", "number", "start", "size"),
    [
        (gpt((ROOT, 100, 199)), 1, 100, 100),
        # As the cloud images of Debian and of Ubuntu have it.
        (gpt((ROOT, 200, 299), (EFI, 100, 199)), 1, 200, 100),
        (gpt((EFI, 90, 99), (BOOT, 100, 109), (LINUX, 110, 119)), 3, 110, 10),
        # One that says it is the root filesystem, beside one of Linux.
        (gpt((LINUX, 100, 109), (ROOT, 110, 110)), 2, 110, 1),
        (gpt((LINUX, 100, 109), number=4, size=256), 1, 100, 10),
        (gpt((LINUX, 100, 109), length=SECTOR), 1, 100, 10),
        (gpt((LINUX, 100, SECTORS - 1)), 1, 100, SECTORS - 100),
        (mbr((0x83, 8, 16)), 1, 8, 16),
        (mbr((0x82, 8, 8), (0x5, 16, 8), (0x83, 24, 8)), 3, 24, 8),
    ],
)
def test_root_filesystem(
    find: Callable[[bytes], Partition],
    head: bytes,
    number: int,
    start: int,
    size: int,
) -> None:
    found = find(head)
    assert (found.number, found.start, found.size) == (
        number,
        start * SECTOR,
        size * SECTOR,
    )


DAMAGED = "its partition table is damaged"
SEVERAL = "has several partitions that may be the root filesystem (1, 3)"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (gpt((ROOT, 100, 109), (EFI, 110, 119), (ROOT, 120, 129)), SEVERAL),
        (gpt((LINUX, 100, 109), (EFI, 9, 9), (LINUX, 120, 129)), SEVERAL),
        (mbr((0x83, 8, 8), (0x82, 16, 8), (0x83, 24, 8)), SEVERAL),
        (gpt((EFI, 100, 109)), "without a partition of Linux"),
        (gpt(), "without a partition of Linux"),
        # What is in an extended partition is not looked for.
        (mbr((0x5, 8, 8)), "without a partition of Linux"),
        (gpt((LINUX, 100, SECTORS)), "partition 1 is not within it"),
        (gpt((LINUX, 100, 98)), "partition 1 is not within it"),
        (gpt((LINUX, 0, 98)), "partition 1 is not within it"),
        (gpt((LINUX, 100, 2**64 - 1)), "partition 1 is not within it"),
        (mbr((0x83, 8, SECTORS)), "partition 1 is not within it"),
        (mbr((0x83, 0, 8)), "partition 1 is not within it"),
        (mbr((0x83, 8, 0)), "partition 1 is not within it"),
        (mbr((0xEE, 1, 99)), "not of sectors of 512 bytes"),
        (gpt((ROOT, 100, 109), length=91), DAMAGED),
        (gpt((ROOT, 100, 109), length=SECTOR + 1), DAMAGED),
        (gpt((ROOT, 100, 109), number=1 << 16), DAMAGED),
        (gpt((ROOT, 100, 109), spoil=lambda h: h.reverse()), "512 bytes"),
        (gpt((ROOT, 9, 9), spoil=lambda h: h.__setitem__(40, 1)), DAMAGED),
        (gpt((ROOT, 100, 109))[: 2 * SECTOR], DAMAGED),
    ],
)
def test_refused(
    find: Callable[[bytes], Partition], head: bytes, said: str
) -> None:
    with pytest.raises(ImageError) as caught:
        find(head)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("place", "size"), [(2**63, 128), (2**64 - 1, 128), (2, 47), (2, 0)]
)
def test_entries_that_cannot_be(
    find: Callable[[bytes], Partition], place: int, size: int
) -> None:
    def resize(header: bytearray) -> None:
        struct.pack_into("<QII", header, 72, place, 128, size)
        header[16:20] = bytes(4)
        checksum = zlib.crc32(bytes(header[:92]))
        struct.pack_into("<I", header, 16, checksum)

    with pytest.raises(ImageError, match=DAMAGED):
        find(gpt((ROOT, 100, 109), spoil=resize))


def test_entries_that_the_image_ends_in(tmp_path: Path) -> None:
    """With the checksum of those that are there."""
    file = tmp_path / "disk"
    file.write_bytes(gpt((ROOT, 100, 109), number=8192))
    fd = os.open(file, os.O_RDONLY)
    try:
        with pytest.raises(ImageError, match=DAMAGED):
            partitions.find_root(fd, "disk")
    finally:
        os.close(fd)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 4 * SECTOR),
    noise=st.binary(max_size=64),
    is_sound=st.booleans(),
)
def test_noise(
    find: Callable[[bytes], Partition],
    place: int,
    noise: bytes,
    is_sound: bool,
) -> None:
    """Whatever is written over it, it is found or refused."""
    head = bytearray(gpt((ROOT, 100, 109)))
    head[place : place + len(noise)] = noise
    if is_sound:
        length = min(struct.unpack_from("<I", head, SECTOR + 12)[0], SECTOR)
        header = head[SECTOR : SECTOR + length]
        header[16:20] = bytes(4)
        checksum = zlib.crc32(bytes(header))
        struct.pack_into("<I", head, SECTOR + 16, checksum)
    with suppress(ImageError):
        found = find(bytes(head))
        assert 0 < found.start < found.start + found.size <= SECTORS * SECTOR
