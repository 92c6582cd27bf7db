# SPDX-License-Identifier: Apache-2.0
"""Partitions that grow to the end of their image."""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lxc_userns.exceptions import ImageError
from lxc_userns.rootfs.views import partition_growth, partitions
from lxc_userns.rootfs.views.partitions import SECTOR, Partition
from tests.unit.rootfs.views.test_partitions import (
    EFI,
    LINUX,
    ROOT,
    SECTORS,
    gpt,
    mbr,
)

LARGE = 3 * SECTORS
#: Where a GPT keeps its copy, behind the last partition.
COPY = LARGE - 33


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[int]:
    """Open an empty file."""
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def write(fd: int, head: bytes, sectors: int = LARGE) -> Partition:
    """Write an image that begins so; return its root filesystem."""
    os.truncate(fd, 0)
    os.pwrite(fd, head, 0)
    os.truncate(fd, sectors * SECTOR)
    return partitions.find_root(fd, "disk")


@pytest.mark.parametrize(
    ("head", "start", "end"),
    [
        (gpt((ROOT, 100, 199)), 100, COPY),
        (gpt((ROOT, 200, 299), (EFI, 100, 199)), 200, COPY),
        (gpt((LINUX, 100, 199), number=4, size=256), 100, LARGE - 3),
        (mbr((0x83, 8, 16)), 8, LARGE),
        (mbr((0xEF, 8, 8), (0x83, 16, 8)), 16, LARGE),
    ],
)
def test_it_ends_where_the_image_does(
    disk: int, head: bytes, start: int, end: int
) -> None:
    place = write(disk, head)
    others = [
        each
        for each in partitions.read(disk, "disk")
        if each.number != place.number
    ]
    grown = partition_growth.grow(disk, "disk", place)
    assert (grown.start, grown.end) == (start * SECTOR, end * SECTOR)
    assert partitions.find_root(disk, "disk") == grown
    assert partition_growth.plan(disk, "disk", grown) is None
    after = partitions.read(disk, "disk")
    assert [x for x in after if x.number != place.number] == others


def test_the_copy_is_a_table_as_well(disk: int) -> None:
    partition_growth.grow(disk, "disk", write(disk, gpt((ROOT, 100, 199))))
    header = os.pread(disk, SECTOR, (LARGE - 1) * SECTOR)
    own, other = struct.unpack_from("<QQ", header, 24)
    (entries,) = struct.unpack_from("<Q", header, 72)
    assert (own, other, entries) == (LARGE - 1, 1, COPY)
    # As a tool would that brings it back.
    before = partitions.read(disk, "disk")
    os.pwrite(disk, header, SECTOR)
    assert partitions.read(disk, "disk") == before


@pytest.mark.parametrize("head", [gpt((ROOT, 9, 199)), mbr((0x83, 9, 8))])
def test_ended_at_any_moment_it_is_as_before_or_grown(
    disk: int, head: bytes
) -> None:
    place = write(disk, head)
    rewrite = partition_growth.plan(disk, "disk", place)
    assert rewrite is not None
    *first, (where, _) = rewrite.writes
    for number in range(len(first) + 1):
        write(disk, head)
        for at, data in first[:number]:
            # No page of it, or some.
            os.pwrite(disk, data[: len(data) // 2], at)
            assert partitions.find_root(disk, "disk") == place
            os.pwrite(disk, data, at)
        assert partitions.find_root(disk, "disk") == place
    # The kernel writes a page at once.
    assert (where, len(rewrite.writes[-1][1]) <= 4096) == (0, True)


def hybrid(head: bytes) -> bytes:
    """A GPT with a partition for those who read the other table."""
    made = bytearray(head)
    made[0x1CE + 4] = 0x83
    return bytes(made)


@pytest.mark.parametrize(
    "head",
    [
        gpt((ROOT, 100, 199), (LINUX, 200, 299)),
        # Over the other.
        gpt((ROOT, 100, 199), (EFI, 150, 299)),
        gpt(*[(EFI, 90, 91)] * 24, (ROOT, 100, 199)),
        gpt((ROOT, 100, 199), length=SECTOR),
        hybrid(gpt((ROOT, 100, 199))),
        mbr((0x83, 8, 8), (0x5, 16, 8)),
    ],
)
def test_it_stays_as_it_is(disk: int, head: bytes) -> None:
    place = write(disk, head)
    assert partition_growth.grow(disk, "disk", place) == place
    assert os.pread(disk, len(head), 0) == head


def test_an_image_that_was_not_made_larger(disk: int) -> None:
    for head in (gpt((ROOT, 100, SECTORS - 34)), mbr((0x83, 8, SECTORS - 8))):
        place = write(disk, head, SECTORS)
        assert partition_growth.plan(disk, "disk", place) is None


def test_a_length_has_32_bits(disk: int) -> None:
    place = write(disk, mbr((0x83, 8, 8)), 1 << 33)
    grown = partition_growth.grow(disk, "disk", place)
    assert grown.size == ((1 << 32) - 1) * SECTOR
    place = write(disk, gpt((ROOT, 100, 199)), 1 << 33)
    assert partition_growth.grow(disk, "disk", place).size > 1 << 41


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ROOT, EFI, LINUX]),
            st.integers(0, LARGE),
            st.integers(0, 2 * LARGE),
        ),
        max_size=6,
    ),
    st.sampled_from([1, 4, 128, 8192]),
    st.integers(34, LARGE),
)
def test_whatever_is_in_a_table(
    disk: int, entries: list[tuple[str, int, int]], number: int, sectors: int
) -> None:
    """No other partition changes, nor is it put over one."""
    if len(entries) > number:
        return
    with suppress(ImageError):
        place = write(disk, gpt(*entries, number=number), sectors)
        before = partitions.read(disk, "disk")
        grown = partition_growth.grow(disk, "disk", place)
        after = partitions.read(disk, "disk")
        assert partitions.find_root(disk, "disk") == grown
        assert [x for x in after if x != grown] == [
            x for x in before if x != place
        ]
