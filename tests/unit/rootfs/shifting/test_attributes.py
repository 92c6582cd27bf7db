# SPDX-License-Identifier: Apache-2.0
"""ACLs and file capabilities, byte by byte."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.rootfs.shifting import acl, filecaps

NO_ID = 2**32 - 1
PLAIN = [
    (0x01, 7, NO_ID),
    (0x04, 5, NO_ID),
    (0x10, 7, NO_ID),
    (0x20, 0, NO_ID),
]


def encode(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(
        struct.pack("<HHI", *each) for each in entries
    )


def up(number: int) -> int:
    return number + 100000


def down(number: int) -> int:
    return number - 100000


def far(number: int) -> int:
    return number + 200000


def test_only_qualifiers_are_translated() -> None:
    value = encode(*PLAIN, (0x02, 6, 1000), (0x08, 4, 5))
    wanted = encode(*PLAIN, (0x02, 6, 101000), (0x08, 4, 200005))
    assert acl.translate(value, up, far) == wanted


def test_order_is_kept() -> None:
    value = encode((0x02, 6, 7), (0x02, 4, 3), (0x02, 1, 7))
    wanted = encode((0x02, 6, 100007), (0x02, 4, 100003), (0x02, 1, 100007))
    assert acl.translate(value, up, up) == wanted


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        encode(),
        encode(*PLAIN),
        encode((0x02, 6, 1000), version=1),
        encode((0x02, 6, 1000)) + b"x",
        encode((0x02, 6, 1000))[:-1],
    ],
)
def test_nothing_to_translate(value: bytes) -> None:
    assert acl.translate(value, up, up) == value


@given(
    st.lists(st.tuples(*[st.integers(0, 65535)] * 2, st.integers(0, 2**31)))
)
def test_acl_and_back(entries: list[tuple[int, int, int]]) -> None:
    value = encode(*entries)
    there = acl.translate(value, up, up)
    assert len(there) == len(value)
    assert acl.translate(there, down, down) == value


SETS = (0x2400, 0x1, 0x3, 0x4)
V2 = struct.pack("<5I", 0x02000001, *SETS)


def v3(root: int) -> bytes:
    return struct.pack("<6I", 0x03000001, *SETS, root)


@pytest.mark.parametrize(
    ("value", "shifted"),
    [
        (V2, v3(100000)),
        (v3(0), v3(100000)),
        (v3(1000), v3(101000)),
        (
            struct.pack("<3I", 0x01000000, 0x2400, 0x1),
            struct.pack("<6I", 0x03000000, 0x2400, 0x1, 0, 0, 100000),
        ),
    ],
)
def test_capability_gets_a_root(value: bytes, shifted: bytes) -> None:
    assert filecaps.translate(value, up) == shifted


def test_capability_of_guest_root_needs_none() -> None:
    assert filecaps.translate(v3(100000), down) == V2
    assert filecaps.translate(V2, int) == V2
    assert filecaps.translate(v3(5), int) == v3(5)


@pytest.mark.parametrize(
    "value",
    [b"", b"\1\0\0", V2[:-1], V2 + b"x", v3(1)[:-4], v3(1) + b"xxxx"]
    + [struct.pack("<I", magic << 24) + V2[4:] for magic in (0, 1, 3, 4)],
)
def test_malformed_capability(value: bytes) -> None:
    assert filecaps.translate(value, up) is None


@given(st.binary(max_size=32))
def test_no_bytes_crash(value: bytes) -> None:
    assert len(acl.translate(value, up, up)) == len(value)
    # Nothing, or a whole attribute of version 2 or 3.
    translated = filecaps.translate(value, up)
    assert translated is None or len(translated) in (20, 24)


def test_closed_but_to_one_user() -> None:
    wanted = encode(
        (0x01, 7, NO_ID),
        (0x02, 5, 1000),
        (0x04, 0, NO_ID),
        (0x10, 5, NO_ID),
        (0x20, 0, NO_ID),
    )
    assert acl.closed_but_to(1000) == wanted
