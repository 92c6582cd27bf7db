# SPDX-License-Identifier: Apache-2.0
"""Allocation of leases, against a search through all places."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases.allocation import (
    FreeRanges,
    capacity,
    choose,
    first_fit,
    reuse_released,
)

S = 65536
#: Starts of pools: aligned, not aligned, and around powers of two.
STARTS = [S, 100000, 2**31 - S, 2**31 - 1, 2_000_000_000, 1879048192]

pools = st.lists(
    st.builds(
        lambda start, count: range(start, start + count),
        st.integers(0, 120),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=4,
).map(IdSet.of)
holes = st.lists(st.integers(0, 170), max_size=5).map(
    lambda numbers: IdSet.of(range(each, each + 1) for each in numbers)
)
sizes = st.integers(1, 17)


def take_all(pool: IdSet, free: IdSet, size: int) -> Iterator[int]:
    """Lease until there is no more."""
    while (start := first_fit(pool, free, size)) is not None:
        yield start
        free -= IdSet((range(start, start + size),))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("number", [1, 2, 7])
def test_exactly_as_many_as_there_are(start: int, number: int) -> None:
    pool = IdSet((range(start, start + number * S),))
    found = [*take_all(pool, pool, S)]
    assert found == [start + each * S for each in range(number)]
    assert capacity(pool, pool, S) == number
    # One ID less, at either end, is one lease less.
    for less in (
        range(start + 1, start + number * S),
        range(start, start + number * S - 1),
    ):
        pool = IdSet((less,))
        assert len([*take_all(pool, pool, S)]) == number - 1


def test_aligned_where_that_wastes_nothing() -> None:
    pool = IdSet((range(100000, 100000 + 3 * S),))
    assert first_fit(pool, pool, S) == 100000
    pool = IdSet((range(100000, 4 * S),))
    assert [*take_all(pool, pool, S)] == [2 * S, 3 * S]


def test_places_stay_a_multiple_apart_beside_a_hole() -> None:
    pool = IdSet((range(2_000_000_000, 2_000_000_000 + 10 * S),))
    user = 2_000_000_000 + S + 77
    found = [*take_all(pool, pool - IdSet((range(user, user + 1),)), S)]
    assert found == [
        2_000_000_000 + each * S for each in range(10) if each != 1
    ]


def test_other_sizes_fill_what_is_between_places() -> None:
    pool = IdSet((range(10),))
    free = pool - IdSet((range(2),))
    # On the grid of 5 there is one place, and beside it no room.
    assert [*take_all(pool, free, 5)] == [5]
    # Of 6 there is none on the grid but the first, which is taken.
    assert [*take_all(pool, free, 6)] == [2]
    assert capacity(pool, free, 6) == 1


def test_other_sizes_keep_to_the_places_of_most() -> None:
    start = 2_000_000_000
    pool = IdSet((range(start, start + 4 * S),))
    first = range(start, start + S)
    free = pool - IdSet((first,))
    # On their own grid if they can, ...
    assert first_fit(pool, free, 2 * S, S) == start + 2 * S
    assert first_fit(pool, free, 10, S) == start + S - S % 10 + 10
    # ... or else where one of most could be.
    free -= IdSet((range(start + 3 * S, start + 4 * S),))
    assert first_fit(pool, free, 2 * S, S) == start + S


@given(pools, holes, sizes)
def test_leases_share_nothing_and_are_all_there_can_be(
    pool: IdSet, hole: IdSet, size: int
) -> None:
    free = pool - hole
    found = [*take_all(pool, free, size)]
    taken = IdSet.of(range(each, each + size) for each in found)
    assert len(taken) == len(found) * size
    assert not taken - free
    assert len(found) == capacity(pool, free, size)
    assert all(len(gap) < size for gap in free - taken)
    on_grid = sum(len(gap) // size for gap in pool)
    assert len(found) <= on_grid or hole


@given(pools, sizes)
def test_an_untouched_pool_is_used_to_the_last(pool: IdSet, size: int) -> None:
    assert capacity(pool, pool, size) == sum(len(gap) // size for gap in pool)


def test_the_longest_released_first() -> None:
    pool = IdSet((range(40),))
    released = [range(20, 30), range(10), range(30, 40)]
    assert reuse_released(pool, IdSet(), released, 10) == 20
    # Two that touch make one of twice the size, as soon as both are there.
    assert reuse_released(pool, IdSet(), released, 20) == 20
    assert reuse_released(pool, IdSet(), released[:2], 20) is None
    # With what was never leased beside it.
    assert (
        reuse_released(pool, IdSet((range(10, 20),)), released[:1], 20) == 10
    )
    # What has left the pool does not count.
    assert reuse_released(IdSet((range(20),)), IdSet(), released, 10) == 0


def test_no_more_is_read_than_is_needed() -> None:
    read = []

    def released() -> Iterator[range]:
        for start in range(0, 1000, 10):
            read.append(start)
            yield range(start, start + 10)

    pool = IdSet((range(1000),))
    assert reuse_released(pool, IdSet(), released(), 10) == 0
    assert read == [0]
    assert reuse_released(pool, IdSet(), released(), 30) == 0
    assert len(read) <= 6


@given(
    pools,
    st.lists(
        st.builds(
            lambda start, count: range(start, start + count),
            st.integers(0, 150),
            st.integers(1, 9),
        ),
        max_size=12,
    ),
    sizes,
)
def test_as_few_of_the_last_released_as_possible(
    pool: IdSet, released: list[range], size: int
) -> None:
    found = reuse_released(pool, IdSet(), released, size)
    expected = None
    for count in range(1, len(released) + 1):
        among = IdSet.of(released[:count]) & pool
        expected = first_fit(pool, among, size)
        if expected is not None:
            break
    assert found == expected


def test_the_same_place_for_both_kinds() -> None:
    pool = IdSet((range(40),))
    user = IdSet((range(5, 6),))
    uid, gid = FreeRanges(pool, pool - user), FreeRanges(pool, pool)
    assert choose([uid, gid], 10) == [10, 10]
    # And apart when there is no other way.
    rest = IdSet((range(10),))
    uid, gid = (
        FreeRanges(pool, rest - user, [range(30, 40), range(20, 30)]),
        FreeRanges(pool, rest, [range(30, 40)]),
    )
    assert choose([uid, gid], 10) == [30, 0]


def test_pools_that_differ() -> None:
    uid, gid = IdSet((range(40),)), IdSet((range(20, 60),))
    assert choose([FreeRanges(uid, uid), FreeRanges(gid, gid)], 10) == [0, 20]
    assert choose([FreeRanges(uid, uid), FreeRanges(gid, IdSet())], 10) == [
        0,
        None,
    ]


def test_free_ids_are_of_the_pool() -> None:
    with pytest.raises(ValueError, match="not in the pool"):
        capacity(IdSet((range(10),)), IdSet((range(20, 30),)), 5)
