# SPDX-License-Identifier: Apache-2.0
"""Sets of host IDs, held as ranges: a pool has millions of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from lxc_userns.idmap.ranges import subtract

_START = attrgetter("start")


@dataclass(frozen=True, slots=True)
class IdSet:
    """A set of IDs.

    :param ranges: half-open and of step 1, ascending; none is empty, and
        between two there is a gap. :meth:`of` makes them so.
    """

    ranges: tuple[range, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[range]) -> IdSet:
        """Return the IDs that are in any of these ranges, of step 1.

        :param ranges: in any order; they may be empty and overlap.
        """
        merged: list[range] = []
        for each in sorted(filter(len, ranges), key=_START):
            if merged and each.start <= merged[-1].stop:
                last = merged.pop()
                each = range(last.start, max(last.stop, each.stop))
            merged.append(each)
        return cls(tuple(merged))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __iter__(self) -> Iterator[range]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __contains__(self, ids: int | range) -> bool:
        """Return whether an ID, or all of a range with any, is in it."""
        wanted = range(ids, ids + 1) if isinstance(ids, int) else ids
        around = self.range_of(wanted.start)
        return around is not None and wanted.stop <= around.stop

    def __or__(self, other: IdSet) -> IdSet:
        return IdSet.of((*self.ranges, *other.ranges))

    def __and__(self, other: IdSet) -> IdSet:
        return self - (self - other)

    def __sub__(self, other: IdSet) -> IdSet:
        return IdSet(
            tuple(
                part
                for each in self.ranges
                for part in subtract(each, other.overlapping(each))
            )
        )

    @property
    def bounds(self) -> tuple[int, int]:
        """Its lowest ID, and one past its highest; 0 and 0 if it is empty."""
        if not self.ranges:
            return 0, 0
        return self.ranges[0].start, self.ranges[-1].stop

    def overlaps(self, ids: range) -> bool:
        """Return whether any of these IDs is in it."""
        return any(self.overlapping(ids))

    def range_of(self, number: int) -> range | None:
        """Return the range that an ID is in, None if it is in none."""
        index = bisect_right(self.ranges, number, key=_START) - 1
        if index >= 0 and number in self.ranges[index]:
            return self.ranges[index]
        return None

    def overlapping(self, ids: range) -> Iterator[range]:
        """Yield the ranges, whole, that have any of these IDs."""
        index = max(0, bisect_right(self.ranges, ids.start, key=_START) - 1)
        while index < len(self.ranges):
            each = self.ranges[index]
            if each.start >= ids.stop:
                return
            if each.stop > ids.start:
                yield each
            index += 1
