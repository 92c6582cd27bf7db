# SPDX-License-Identifier: Apache-2.0
"""The list of members that tar prints, cut anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.rootfs.archive.tar_listing import Listing

PRINTED = b"""\
block 1: -rw-r--r-- 0/0               2 2026-11-29 07:19 f
drwxr-xr-x                  Creating directory: dev
block 22: crw-r--r-- 100/5           0,0 2020-01-01 00:00 dev/white
block 22: crw-r--r--+ 0/0             0,0 2020-01-01 00:00 .wh.x
block 22: crw-r--r-- 0/0             1,3 2020-01-01 00:00 dev/null 0,0 x
block 23: -rw-r--r-- 0/0               0 2020-01-01 00:00 .wh.gone
block 23: -rw-r--r-- 0/0               0 2020-01-01 00:00 a b/.wh..wh..opq
block 24: -rw-r--r-- 0/0               0 2020-01-01 00:00 .wh.a/b
block 25: hrw-r--r-- 0/0               0 2020-01-01 00:00 a link to .wh.gone
block 26: ** Block of NULs **
"""


@given(st.lists(st.integers(1, 60), max_size=20))
def test_what_is_counted(pieces: list[int]) -> None:
    listing, lines, rest = Listing(), 0, PRINTED
    for size in [*pieces, len(PRINTED)]:
        lines += listing.feed(rest[:size])
        rest = rest[size:]
    assert lines == PRINTED.count(b"\n")
    assert (listing.whiteouts, listing.whiteout_files) == (2, 2)
    assert listing.end.endswith(b"\nblock 26: ** Block of NULs **\n")


def test_a_line_without_an_end_takes_no_memory() -> None:
    listing = Listing()
    for _ in range(40):
        assert listing.feed(b"x" * (1 << 16)) == 0
    assert len(listing._rest) <= 1 << 20
    assert listing.feed(b"\n") == 1
