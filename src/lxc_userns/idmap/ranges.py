# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of ranges of IDs, half-open and of step 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def intersect(one: range, other: range) -> range:
    """Return the IDs that are in both, a range that may be empty."""
    return range(max(one.start, other.start), min(one.stop, other.stop))


def overlap(one: range, other: range) -> bool:
    """Return whether an ID is in both."""
    return bool(intersect(one, other))


def subtract(ids: range, holes: Iterable[range]) -> Iterator[range]:
    """Yield the parts of ``ids`` that no hole covers, ascending.

    :param holes: in any order; they may be empty and overlap.
    """
    start = ids.start
    for hole in sorted(holes, key=lambda each: each.start):
        cut = intersect(ids, hole)
        if cut:
            if start < cut.start:
                yield range(start, cut.start)
            start = max(start, cut.stop)
    if start < ids.stop:
        yield range(start, ids.stop)
