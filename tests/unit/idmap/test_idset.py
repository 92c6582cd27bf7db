# SPDX-License-Identifier: Apache-2.0
"""Sets of IDs, compared with Python's own sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.idmap.idset import IdSet

ranges = st.builds(
    lambda start, count: range(start, start + count),
    st.integers(0, 60),
    st.integers(0, 12),
)
some_ranges = st.lists(ranges, max_size=8)
id_sets = st.builds(IdSet.of, some_ranges)


def members(ids: IdSet) -> set[int]:
    return {number for each in ids for number in each}


def check_form(ids: IdSet) -> None:
    assert all(len(each) > 0 and each.step == 1 for each in ids)
    for one, other in zip(ids.ranges, ids.ranges[1:], strict=False):
        assert one.stop < other.start


@given(some_ranges)
def test_of(parts: list[range]) -> None:
    ids = IdSet.of(parts)
    check_form(ids)
    assert members(ids) == {number for each in parts for number in each}
    assert len(ids) == len(members(ids))
    assert bool(ids) == bool(members(ids))


@given(id_sets, id_sets)
def test_arithmetic(one: IdSet, other: IdSet) -> None:
    for result, expected in (
        (one | other, members(one) | members(other)),
        (one & other, members(one) & members(other)),
        (one - other, members(one) - members(other)),
    ):
        check_form(result)
        assert members(result) == expected


@given(id_sets, ranges.filter(len))
def test_questions(ids: IdSet, wanted: range) -> None:
    assert (wanted in ids) == (set(wanted) <= members(ids))
    assert (wanted.start in ids) == (wanted.start in members(ids))
    assert ids.overlaps(wanted) == bool(set(wanted) & members(ids))
    around = ids.range_of(wanted.start)
    assert (around is not None) == (wanted.start in ids)
    assert around is None or (around in ids.ranges and wanted.start in around)
    assert [*ids.overlapping(wanted)] == [
        each for each in ids if set(each) & set(wanted)
    ]


@pytest.mark.parametrize(
    ("parts", "merged"),
    [
        ([], []),
        ([range(5, 5)], []),
        ([range(10, 20), range(10)], [range(20)]),
        ([range(10), range(11, 20)], [range(10), range(11, 20)]),
        ([range(30), range(5, 10)], [range(30)]),
        (
            [range(2**32 - 2, 2**32 - 1), range(2**31)],
            [range(2**31), range(2**32 - 2, 2**32 - 1)],
        ),
    ],
)
def test_merging(parts: list[range], merged: list[range]) -> None:
    assert [*IdSet.of(parts)] == merged


def test_large_sets_cost_nothing() -> None:
    all_ids = IdSet((range(2**32 - 1),))
    assert len(all_ids - IdSet((range(1),))) == 2**32 - 2
