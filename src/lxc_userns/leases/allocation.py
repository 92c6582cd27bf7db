# SPDX-License-Identifier: Apache-2.0
"""Allocation of the next lease in a pool: arithmetic, and nothing else."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from lxc_userns.idmap.idset import IdSet


@dataclass(frozen=True, slots=True)
class FreeRanges:
    """The IDs of one kind that a lease can be made of.

    :param pool: all IDs that may ever be leased.
    :param new: of these, the ones that never were, and no one else holds.
    :param released: ranges that were and can be again, the longest released
        first. Read once, and no further than is needed.
    """

    pool: IdSet
    new: IdSet
    released: Iterable[range] = ()


def choose(
    supplies: Sequence[FreeRanges], size: int, alignment: int | None = None
) -> list[int | None]:
    """Return where a lease begins, by kind: where no one was, or longest ago.

    Of the same pool for all kinds the places are the same, for as long as
    there are new ones.

    :param supplies: one for each kind.
    :param size: number of IDs of each kind, 1 or more.
    :param alignment: as for :func:`first_fit`.
    :returns: the first IDs; None where there is no room.
    """
    first, *others = supplies
    if all(other.pool == first.pool for other in others):
        common = first.new
        for other in others:
            common &= other.new
        start = first_fit(first.pool, common, size, alignment)
        if start is not None:
            return [start for _ in supplies]
    return [_choose_one(supply, size, alignment) for supply in supplies]


def _choose_one(
    supply: FreeRanges, size: int, alignment: int | None
) -> int | None:
    start = first_fit(supply.pool, supply.new, size, alignment)
    if start is not None:
        return start
    return reuse_released(
        supply.pool, supply.new, supply.released, size, alignment
    )


def first_fit(
    pool: IdSet, free: IdSet, size: int, alignment: int | None = None
) -> int | None:
    """Return the lowest place for a lease.

    Places are a multiple of ``size`` apart within each range of the pool. They
    are counted from its first multiple of ``alignment``; where that would
    waste room for one of that size, from its start. If none of these places is
    free, they may be a multiple of ``alignment`` apart, and at last anywhere:
    leases of several sizes leave room between each other.

    :param pool: all IDs that may ever be leased.
    :param free: of these, the ones to choose from.
    :param size: number of IDs, 1 or more.
    :param alignment: the size that most leases have; None: this one.
    :returns: the first ID, None if there is no room.
    """
    alignment = alignment or size
    for step in dict.fromkeys((size, alignment, 1)):
        for gap in free:
            start = _next_fit(pool, gap, step, alignment)
            if start + size <= gap.stop:
                return start
    return None


def reuse_released(
    pool: IdSet,
    free: IdSet,
    released: Iterable[range],
    size: int,
    alignment: int | None = None,
) -> int | None:
    """Return the place for a lease that was released the longest time ago.

    :param pool: all IDs that may ever be leased.
    :param free: the ones to choose from that were never leased, with no room
        among them.
    :param released: the ones that were, the longest ago first; read no
        further than is needed.
    :param size: number of IDs, 1 or more.
    :param alignment: as for :func:`first_fit`.
    :returns: the first ID, None if there is no room.
    """
    source = iter(released)
    ranges: list[range] = []

    def place_among(count: int) -> int | None:
        among = IdSet.of(ranges[:count]) & pool
        return first_fit(pool, free | among, size, alignment)

    # As many as there are so far, so that few steps lead to any number.
    while more := list(islice(source, max(1, len(ranges)))):
        ranges += more
        if place_among(len(ranges)) is not None:
            fewest = bisect_left(
                range(len(ranges)),
                True,
                key=lambda count: place_among(count) is not None,
            )
            return place_among(fewest)
    return None


def capacity(pool: IdSet, free: IdSet, size: int) -> int:
    """Return how many leases :func:`first_fit` would still give.

    :param pool: all IDs that may ever be leased.
    :param free: of these, the ones to choose from.
    :param size: number of IDs of each, 1 or more.
    """
    count = 0
    for gap in free:
        on_grid = (gap.stop - _next_fit(pool, gap, size, size)) // size
        # What is left before and after them has no room for one more.
        count += on_grid if on_grid > 0 else len(gap) // size
    return count


def _next_fit(pool: IdSet, gap: range, step: int, alignment: int) -> int:
    """Return the first place at or after the start of a gap."""
    whole = pool.range_of(gap.start)
    if whole is None:
        raise ValueError(f"{gap} is not in the pool")
    origin = -(-whole.start // alignment) * alignment
    if (whole.stop - origin) // alignment < len(whole) // alignment:
        origin = whole.start
    return gap.start + (origin - gap.start) % step
