# SPDX-License-Identifier: Apache-2.0
"""Types of images, by magic numbers, whatever else they have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.rootfs.views import fstype
from lxc_userns.rootfs.views.fstype import LENGTH, Signature

EXT = (0x438, b"\x53\xef")
MARKS = {
    "ext4": EXT,
    "xfs": (0, b"XFSB"),
    "btrfs": (0x10040, b"_BHRfS_M"),
    "squashfs": (0, b"hsqs"),
    "erofs": (0x400, b"\xe2\xe1\xf5\xe0"),
}
MBR = (510, b"\x55\xaa")
LINUX = (0x1BE, b"\x80\0\0\0\x83")
NOTHING = Signature((), False, None)


def image(*marks: tuple[int, bytes], size: int = LENGTH) -> bytes:
    head = bytearray(size)
    for place, mark in marks:
        head[place : place + len(mark)] = mark
    return bytes(head)


@pytest.mark.parametrize("kind", MARKS)
def test_each_filesystem(kind: str) -> None:
    assert fstype.read(image(MARKS[kind])).filesystems == (kind,)
    # A boot sector of its own is no partition table to it.
    both = fstype.read(image(MARKS[kind], MBR, LINUX))
    assert (both.filesystems, both.is_partitioned) == ((kind,), True)
    place, mark = MARKS[kind]
    cut = image(MARKS[kind])[: place + len(mark) - 1]
    assert fstype.read(cut).filesystems == ()


def test_several_filesystems() -> None:
    found = fstype.read(image(MARKS["btrfs"], EXT))
    assert found.filesystems == ("btrfs", "ext4")


@pytest.mark.parametrize(
    "spoilt",
    [
        (0x418, b"\x07"),  # Blocks of 128 KiB.
        (0x41B, b"\x01"),
        (0x44C, b"\x02"),  # A revision that is none yet.
        (0x438, b"\x53\xee"),
    ],
)
def test_the_short_magic_is_not_enough(spoilt: tuple[int, bytes]) -> None:
    assert fstype.read(image(EXT, spoilt)) == NOTHING


@pytest.mark.parametrize(
    ("marks", "is_partitioned"),
    [
        ([MBR, LINUX], True),
        ([MBR, (0x1FE - 16 + 4, b"\x83")], True),
        ([MBR], False),
        ([LINUX], False),
        ([MBR, LINUX, (0x1CE, b"\x7f")], False),
        ([(512, b"EFI PART")], True),
        ([(4096, b"EFI PART")], True),
        ([(1024, b"EFI PART")], False),
    ],
)
def test_partition_tables(
    marks: list[tuple[int, bytes]], is_partitioned: bool
) -> None:
    found = fstype.read(image(*marks))
    assert found == Signature((), is_partitioned, None)


@pytest.mark.parametrize(
    ("mark", "other"),
    [
        ((0, b"QFI\xfb\0\0\0\3"), "a qcow2 image"),
        ((0, b"KDMV"), "a VMDK image"),
        ((0, b"vhdxfile"), "a VHDX image"),
        ((0, b"LUKS\xba\xbe"), "encrypted (LUKS)"),
        ((0x218, b"LVM2 001"), "a physical volume of LVM"),
    ],
)
def test_what_else_it_can_be(mark: tuple[int, bytes], other: str) -> None:
    assert fstype.read(image(mark)) == Signature((), False, other)


@given(st.binary(max_size=0x500), st.integers(0, LENGTH))
def test_anything_can_be_read(data: bytes, place: int) -> None:
    found = fstype.read((bytes(place) + data)[:LENGTH])
    assert set(found.filesystems) <= set(MARKS)


@given(st.integers(0, LENGTH))
def test_anything_can_be_cut_off(size: int) -> None:
    whole = image(*MARKS.values(), MBR, LINUX)
    assert len(fstype.read(whole[:size]).filesystems) <= len(MARKS)
