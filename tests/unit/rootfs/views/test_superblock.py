# SPDX-License-Identifier: Apache-2.0
"""Superblocks and what they ask for, whatever else is in them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.rootfs.views import superblock
from lxc_userns.rootfs.views.superblock import LENGTH, ExtGeometry

TYPES = ("ext4", "xfs", "btrfs", "squashfs", "erofs")
XFS = {48: struct.pack(">Q", 8)}
BTRFS = {0x10088: struct.pack("<Q", 1)}
JOURNAL = {0x45C: b"\4", 0x4E0: b"\x08"}


def head(*parts: dict[int, bytes]) -> bytes:
    made = bytearray(LENGTH)
    for part in parts:
        for place, data in part.items():
            made[place : place + len(data)] = data
    return bytes(made)


@pytest.mark.parametrize(
    ("fs_type", "parts"),
    [
        ("ext4", ()),
        ("ext4", (JOURNAL,)),
        ("xfs", (XFS,)),
        ("btrfs", (BTRFS,)),
        ("btrfs", (BTRFS, {0x10038: b"\7"})),
        ("squashfs", ()),
        ("erofs", ()),
    ],
)
def test_what_may_be_mounted(
    fs_type: str, parts: tuple[dict[int, bytes], ...]
) -> None:
    assert superblock.find_objection(fs_type, head(*parts)) is None


@pytest.mark.parametrize(
    ("fs_type", "parts", "reason"),
    [
        ("ext4", ({0x460: b"\x08"},), "is the journal"),
        ("ext4", ({0x45C: b"\4"},), "journal on another device"),
        ("ext4", (JOURNAL, {0x4E6: b"\1"}), "journal on another device"),
        ("ext4", ({0x461: b"\1"},), "several hosts share"),
        ("ext4", (JOURNAL, {0x63F: b"\1"}), "mount options"),
        ("xfs", (), "its log on another device"),
        ("xfs", (XFS, {16: b"\1"}), "realtime"),
        ("xfs", (XFS, {31: b"\1"}), "realtime"),
        ("btrfs", (), "is on 0 devices"),
        ("btrfs", ({0x10088: b"\2"},), "is on 2 devices"),
        ("btrfs", (BTRFS, {0x1008F: b"\1"}), "devices, and an image is one"),
        ("btrfs", (BTRFS, {0x1003C: b"\1"}), "is a seed"),
        ("btrfs", (BTRFS, {0x100BD: b"\4"}), "one UUID outside"),
        ("btrfs", (BTRFS, {0x10020: b"\1"}), "of another filesystem"),
        ("btrfs", (BTRFS, {0x1012A: b"\1"}), "of another filesystem"),
        ("erofs", ({0x450: b"\x08"},), "on 0 more devices"),
        ("erofs", ({0x456: b"\3"},), "on 3 more devices"),
    ],
)
def test_what_may_not(
    fs_type: str, parts: tuple[dict[int, bytes], ...], reason: str
) -> None:
    found = superblock.find_objection(fs_type, head(*parts))
    assert found is not None
    assert reason in found
    assert ";" in found or "is the journal" in found


SIZES = {0x404: b"\0\2", 0x420: b"\0\x80"}
HIGH = {0x550: b"\1"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((SIZES,), ExtGeometry(1024, 32768, 512)),
        ((SIZES, {0x418: b"\2"}), ExtGeometry(4096, 32768, 512)),
        ((SIZES, {0x418: b"\6"}), ExtGeometry(65536, 32768, 512)),
        ((SIZES, {0x418: b"\7"}), None),
        ((SIZES, {0x41B: b"\1"}), None),
        ((SIZES, {0x421: b"\0"}), None),
        ((SIZES, HIGH), ExtGeometry(1024, 32768, 512)),
        (
            (SIZES, HIGH, {0x460: b"\x80"}),
            ExtGeometry(1024, 32768, (1 << 32) + 512),
        ),
    ],
)
def test_sizes_of_ext(
    parts: tuple[dict[int, bytes], ...], expected: ExtGeometry | None
) -> None:
    assert superblock.ext_geometry(head(*parts)) == expected


def test_sizes_of_what_is_cut_off() -> None:
    assert superblock.ext_geometry(b"") is None


@given(st.sampled_from(TYPES), st.binary(max_size=600), st.integers(0, LENGTH))
def test_anything_can_be_looked_at(
    fs_type: str, data: bytes, place: int
) -> None:
    found = superblock.find_objection(fs_type, (bytes(place) + data)[:LENGTH])
    assert found is None or found.isprintable()


def test_an_unknown_type_is_not_passed() -> None:
    with pytest.raises(KeyError):
        superblock.find_objection("f2fs", b"")


def test_the_id_of_a_btrfs() -> None:
    found = superblock.btrfs_id(head({0x10020: bytes(range(16))}))
    assert found == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert superblock.btrfs_id(b"") == "00000000-0000-0000-0000-000000000000"
