# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of ranges, beside that of sets of all their members."""

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.idmap.ranges import intersect, overlap, subtract

NUMBERS = st.integers(0, 12)
# Some end before they begin, and have nothing.
RANGES = st.builds(range, NUMBERS, NUMBERS)


@given(RANGES, RANGES)
def test_what_is_in_both(one: range, other: range) -> None:
    assert {*intersect(one, other)} == {*one} & {*other}
    assert overlap(one, other) == bool({*one} & {*other})


@given(RANGES, st.lists(RANGES))
def test_what_is_in_no_hole(ids: range, holes: list[range]) -> None:
    parts = list(subtract(ids, holes))
    members = [number for part in parts for number in part]
    assert members == sorted({*ids}.difference(*holes))
    assert all(parts)
    # One part for each gap: none ends where the next begins.
    assert not {part.stop for part in parts} & {part.start for part in parts}
