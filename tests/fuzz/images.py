# SPDX-License-Identifier: Apache-2.0
"""Beginnings of disk images and of archives."""

import struct
import tarfile
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.rootfs.archive import formats
from lxc_userns.rootfs.views import fstype, superblock
from tests.fuzz.mutation import mutated, patched

_WORDS = [
    0, 4, 0x1BE, 0x1C2, 0x1CE, 0x1FE, 0x200, 0x218, 0x400, 0x418, 0x438,
    0x44C, 0x450, 0x1000, 0x10040,
]  # fmt: skip
_MARKS = [
    (0, b"XFSB"), (0, b"hsqs"), (0, b"QFI\xfb"), (0, b"KDMV"),
    (0, b"LUKS\xba\xbe"), (510, b"\x55\xaa"), (512, b"EFI PART"),
    (0x400, b"\xe2\xe1\xf5\xe0"), (0x438, b"\x53\xef"),
    (0x10040, b"_BHRfS_M"),
]  # fmt: skip


def _images() -> list[bytes]:
    found = []
    for offset, mark in _MARKS:
        image = bytearray(fstype.LENGTH)
        image[offset : offset + len(mark)] = mark
        found.append(bytes(image))
    return found


def _member(format: int, name: str) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as made:
        made.addfile(tarfile.TarInfo(name))
    return file.getvalue()[: formats.LENGTH]


_HEADERS = [
    _member(tarfile.USTAR_FORMAT, "a"),
    _member(tarfile.GNU_FORMAT, "\udcff" * 90),
    _member(tarfile.PAX_FORMAT, "é" * 200),
]
_MAGICS = [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"P*M\x18"]


@given(patched(_images(), _WORDS) | st.binary(max_size=2048))
def signatures(head: bytes) -> None:
    """A mark is found whatever else there is, and nothing is made up."""
    found = fstype.read(head)
    assert len(set(found.filesystems)) == len(found.filesystems)
    if "ext4" in found.filesystems:
        assert struct.unpack_from("<H", head, 0x438) == (0xEF53,)
    assert ("xfs" in found.filesystems) == head.startswith(b"XFSB")
    assert ("btrfs" in found.filesystems) == (
        head[0x10040:0x10048] == b"_BHRfS_M"
    )
    if not any(head):
        assert found == fstype.Signature((), False, None)
    # What is behind that is not looked at.
    assert fstype.read(head[: fstype.LENGTH]) == found


def _superblock(offset: int, **numbers: int) -> bytes:
    """Write numbers of 8 bytes at places that the kernel looks at."""
    head = bytearray(superblock.LENGTH)
    for place, number in numbers.items():
        start = offset + int(place[1:], 16)
        head[start : start + 8] = number.to_bytes(8, "little")
    return bytes(head)


#: Acceptable: of ext4, of xfs, of btrfs.
_SUPERBLOCKS = [
    _superblock(0x400, x5C=4, xE0=8),
    _superblock(0, x30=1),
    _superblock(0x10000, x38=1, x88=1),
]
_PLACES = [
    16, 24, 48, 0x450, 0x456, 0x45C, 0x460, 0x4E0, 0x4E4, 0x600, 0x638,
    0x10020, 0x10038, 0x10088, 0x100BC, 0x1011B,
]  # fmt: skip


@given(
    st.sampled_from(["ext4", "xfs", "btrfs", "squashfs", "erofs"]),
    patched(_SUPERBLOCKS, _PLACES),
)
def superblocks(fs_type: str, head: bytes) -> None:
    """None that names another device is mounted, however it is written."""
    objection = superblock.find_objection(fs_type, head)
    assert len(superblock.btrfs_id(head)) == 36
    head = head.ljust(superblock.LENGTH, b"\0")
    names_another = {
        "ext4": any(head[0x4E4:0x4E8]) or head[0x460] & 8,
        "xfs": not any(head[48:56]) or any(head[16:32]),
        "btrfs": head[0x10088:0x10090] != (1).to_bytes(8, "little"),
        "squashfs": False,
        "erofs": any(head[0x456:0x458]) or head[0x450] & 8,
    }
    assert objection or not names_another[fs_type]
    assert objection is None or objection.isprintable()


@given(
    patched(_HEADERS, [0, 100, 124, 148, 152, 156, 257, 345])
    | mutated([*_HEADERS, *_MAGICS], [b"0o17", b"1_7", b"-1", b" +7\0"])
)
def archives(head: bytes) -> None:
    """Only a good header, or a mark of a compressor, is an archive."""
    found = formats.find_decompressor(head)
    options = ("--decompress", "--stdout")
    assert not found or found[1:3] == options
    if found == ():
        field = head[148:156]
        assert len(head) >= formats.LENGTH
        assert set(field) <= set(b"01234567 \0")
