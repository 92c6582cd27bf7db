# SPDX-License-Identifier: Apache-2.0
"""ID maps of the sandbox that packs, and what tar and it say."""

import os
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns import IdMap, IdMaps
from lxc_userns.exceptions import RootfsError
from lxc_userns.idmap import ID_LIMIT
from lxc_userns.rootfs.archive import creation, tar_ids
from lxc_userns.rootfs.archive.contents import LONGEST_PATH
from lxc_userns.rootfs.archive.new_file import NewFile
from lxc_userns.rootfs.shifting import ipc

MAPS = [
    "0:100000:65536",
    "0:100000:65536,70000:200000:1",
    "0:1000:1,1:100000:65535",
    "0:40000:60000",
    "0:1:4294967294",
]
RESULT = {"tar": 0, "compressor": 0, "devices": 1, "nodes": 1, "sockets": 2}
NEW = NewFile("a.tar", -1, ("gzip",))


@pytest.mark.parametrize("text", MAPS)
@given(number=st.integers(0, ID_LIMIT - 1))
def test_every_owner_is_seen_once(text: str, number: int) -> None:
    """An ID on disk has at most one row, and that is its guest ID."""
    id_map = IdMap.parse(text)
    rows, _ = tar_ids.shifted_rows(IdMaps(id_map, id_map))
    seen = [
        inside + number - outside
        for inside, outside, count in rows
        if outside <= number < outside + count
    ]
    guests = [
        entry.guest + number - entry.host
        for entry in id_map
        if number in entry.host_ids
    ]
    if guests:
        assert seen == guests
    elif any(number in entry.guest_ids for entry in id_map):
        assert seen == []
    else:
        assert seen == [number]


@pytest.mark.parametrize("text", MAPS)
def test_rows_are_as_the_kernel_takes_them(text: str) -> None:
    id_map = IdMap.parse(text)
    rows, _ = tar_ids.shifted_rows(IdMaps(id_map, id_map))
    assert len(rows) <= 340
    for side in (0, 1):
        ranges = sorted((row[side], row[side] + row[2]) for row in rows)
        assert ranges[-1][1] <= ID_LIMIT
        for one, other in pairwise(ranges):
            assert one[1] <= other[0]


@pytest.mark.parametrize(
    ("said", "changed", "first"),
    [
        (b"tar: ./a: file changed as we read it\n", 1, None),
        (b"tar: ./a\\nb\\:: File removed before we read it\n", 1, None),
        (b"tar: ./a: File shrank by 1 byte; padding with zeros\n", 1, None),
        (b"tar: ./a: Cannot open: Permission denied\n", 0, "Permission"),
        (b"gzip: stdout: No space left on device\n", 0, "No space"),
        (
            b"tar: Exiting with failure status due to previous errors\n",
            0,
            None,
        ),
        (b"something: else\n", 0, "something"),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_what_tar_says(
    said: bytes, changed: int, first: str | None, live: bool
) -> None:
    found = creation.CreationDiagnostics(live)
    for number in range(len(said)):
        found.feed(said[number : number + 1])
    found.feed(b"")
    assert found.changed == changed
    if first is None and (live or not changed):
        assert found.first is None
    else:
        assert (first or said.decode()[5:9]) in (found.first or "")
    assert found.is_full == (b"No space" in said)


def receive(value: Any) -> dict[str, Any]:
    read, write = os.pipe()
    ipc.send_plain(write, value)
    os.close(write)
    try:
        return creation._receive(read, "/tree")
    finally:
        os.close(read)


def test_a_result() -> None:
    assert receive(RESULT) == RESULT


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"refused": "has a long path"}, "/tree: has a long path"),
        ({"refused": "has\na break"}, "no result"),
        ({"refused": 1}, "no result"),
        ({"error": [1, "Operation"]}, r"no permission \(is this root"),
        ({"error": [None, "x" * 999]}, r"cannot be packed: x{300}$"),
        ({"error": [5, "a\x1bb"]}, "no result"),
        ({**RESULT, "tar": 256}, "no result"),
        ({**RESULT, "tar": True}, "no result"),
        ({**RESULT, "devices": -1}, "no result"),
        ({**RESULT, "sockets": "1"}, "no result"),
        ({**RESULT, "more": 1}, "no result"),
        ({}, "no result"),
    ],
)
def test_what_is_no_result(value: Any, reason: str) -> None:
    with pytest.raises(RootfsError, match=reason):
        receive(value)


def test_who_says_nothing() -> None:
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(RootfsError, match="has died"):
        creation._receive(read, "/tree")
    os.close(read)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tar": 1}, "/tree: tar failed with exit code 1"),
        ({"tar": -9}, "/tree: tar was killed by signal 9"),
        ({"compressor": 3}, "a.tar: gzip failed with exit code 3"),
    ],
)
def test_ends_that_no_one_has_told(
    changes: dict[str, int], reason: str
) -> None:
    said = creation.CreationDiagnostics(live=False)
    with pytest.raises(RootfsError, match=reason):
        creation._check({**RESULT, **changes}, NEW, "/tree", said)


def test_a_change_of_a_live_tree_is_no_failure() -> None:
    said = creation.CreationDiagnostics(live=True)
    said.feed(b"tar: ./a: file changed as we read it\n")
    creation._check({**RESULT, "tar": 1}, NEW, "/tree", said)


def test_the_longest_path() -> None:
    assert len("./" + "x" * LONGEST_PATH + "\0") == 4096
