# SPDX-License-Identifier: Apache-2.0
"""Tables of what was measured, as reStructuredText has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.debian.alternatives import (
    CONTAINER,
    CREATOR,
    IMAGE,
    Account,
)
from benchmarks.debian.sharing import Sharing
from benchmarks.debian.starting import PARTS, Start
from benchmarks.leases.crowd import Crowd
from benchmarks.leases.holding import Holding
from benchmarks.leases.neighbours import Neighbours
from benchmarks.measure import Column, Result, Spread
from benchmarks.race import Race, Size

Row = Sequence[str]
_KIB, _MIB = 1 << 10, 1 << 20


def table(rows: Sequence[Row], *, text_last: bool = False) -> Iterator[str]:
    """Lines of a table; the first row is the head.

    The first column is set to the left, the others to the right.

    :param text_last: whether the last column is text, of any length.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if text_last:
        widths[-1] = len(rows[0][-1])
    rule = " ".join("=" * width for width in widths)
    for row_number, row in enumerate(rows):
        if row_number < 2:
            yield rule
        cells = [
            cell.rjust(width) for cell, width in zip(row, widths, strict=True)
        ]
        cells[0] = row[0].ljust(widths[0])
        yield " ".join(cells).rstrip()
    yield rule


def number(value: float) -> str:
    """A number with three digits that count, and no exponent."""
    for decimals, least in enumerate((100, 10, 1, 0.1, 0.01)):
        if value >= least:
            return f"{value:.{decimals}f}"
    return f"{value:.5f}" if value else "0"


def extremes(values: Iterable[float]) -> str:
    """Least and most."""
    spread = Spread.of(values)
    return f"{number(spread.least)}-{number(spread.most)}"


def middle(values: Iterable[float]) -> str:
    """The median."""
    return number(Spread.of(values).median)


def race_times(found: Sequence[Race]) -> Iterator[str]:
    """Milliseconds of all contenders at all sizes."""
    return _by_size(
        "inodes",
        [race.column for race in found],
        lambda each: _milli(each.seconds),
    )


def race_ratios(found: Sequence[Race]) -> Iterator[str]:
    """Ratios to the first contender at all sizes."""
    return _by_size(
        "inodes", [race.column for race in found], lambda each: each.ratios
    )


def _by_size(
    head: str,
    columns: Sequence[Column],
    pick: Callable[[Result], Sequence[float]],
) -> Iterator[str]:
    sizes, results = zip(*columns, strict=True)
    rows = [
        (head, *(word for size in sizes for word in (f"{size}", "min-max")))
    ]
    for same in zip(*results, strict=True):
        cells = (word for each in same for word in _cells(pick(each)))
        rows.append((same[0].name, *cells))
    return table(rows)


def sizes(found: Sequence[Size]) -> Iterator[str]:
    """Memory, and a second shift, by size of the tree."""
    rows = [("inodes", "caller MiB", "workers MiB", "processes", "again ms")]
    for each in found:
        rows.append(
            (
                f"{each.inodes}",
                f"{each.coordinator_kib / 1024:.1f}",
                f"{each.workers_kib / 1024:.1f}",
                f"{each.workers}",
                f"{each.again * 1000:.2f}",
            )
        )
    return table(rows)


def commands(found: Sequence[Result]) -> Iterator[str]:
    """Short commands."""
    rows = [("command", "ms", "min-max")]
    rows += [(each.name, *_cells(_milli(each.seconds))) for each in found]
    return table(rows)


def unpacking(found: Sequence[Result]) -> Iterator[str]:
    """Seconds, and ratios to the first."""
    rows = [("tool", "seconds", "min-max", "ratio", "min-max")]
    rows += [
        (each.name, *_cells(each.seconds), *_cells(each.ratios))
        for each in found
    ]
    return table(rows)


def sharing(found: Sharing) -> Iterator[str]:
    """Time and disk of one more container."""
    head = ("one more container", "ms", "min-max", "first", "last")
    both = tuple(map(sum, zip(found.copies, found.shifts, strict=True)))
    copies, views = len(found.copies), len(found.views)
    return table(
        [
            (*head, "MiB on disk", "MiB used"),
            (
                f"overlay view, of {views}",
                *_series(found.views),
                number(found.views_disk / views / _MIB),
                number(found.views_used / views / _MIB),
            ),
            ("cp -a", *_series(found.copies), "", ""),
            ("rootfs.shift of the copy", *_series(found.shifts), "", ""),
            (
                f"copy and shift, of {copies}",
                *_series(both),
                number(found.copies_disk / copies / _MIB),
                number(found.copies_used / copies / _MIB),
            ),
        ]
    )


def starts(found: Sequence[Start]) -> Iterator[str]:
    """Milliseconds of each part of a start."""
    last = ("all but start", "min-max", "ratio", "min-max")
    rows: list[Row] = [("container", *PARTS, "rest", *last)]
    for each in found:
        parts = (middle(_milli(each.parts[part])) for part in PARTS)
        rows.append(
            (
                each.name,
                *parts,
                middle(_milli(each.rest)),
                *_cells(_milli(each.ours)),
                *_cells(each.ratios),
            )
        )
    return table(rows)


def alternatives(found: Sequence[Account]) -> Iterator[str]:
    """Seconds and disk of all alternatives."""
    heads = (f"once per {when}" for when in (IMAGE, CONTAINER))
    rows = [("owners are shifted", "creator", *heads, "MiB per container")]
    for each in found:
        seconds = (each.total(when) for when in (CREATOR, IMAGE, CONTAINER))
        cells = (middle(some) if some else "" for some in seconds)
        rows.append((each.name, *cells, number(each.disk / _MIB)))
    return table(rows)


def account(found: Account) -> Iterator[str]:
    """The steps of one alternative."""
    rows = [("once per", "seconds", "min-max", "command")]
    rows += [
        (cost.when, *_cells(cost.seconds), f"``{cost.command}``")
        for cost in found.costs
    ]
    return table(rows, text_last=True)


def leases(found: Sequence[Holding]) -> Iterator[str]:
    """Milliseconds of all that is done with a lease, by the number held."""
    return _by_size(
        "held",
        [holding.column for holding in found],
        lambda each: _milli(each.seconds),
    )


def neighbours(found: Sequence[Neighbours]) -> Iterator[str]:
    """Milliseconds of an acquire, by what runs beside it."""
    rows: list[Row] = [("processes", "user namespaces", "ms", "min-max")]
    for each in found:
        numbers = str(each.processes), str(each.namespaces)
        rows.append((*numbers, *_cells(_milli(each.seconds))))
    return table(rows)


def crowds(found: Sequence[Crowd]) -> Iterator[str]:
    """How fast many processes are together, and how long each waits."""
    head = ("leases a second", "min-max", "ms", "min-max")
    rows: list[Row] = [("processes", *head)]
    for each in found:
        waits = _cells(_milli(each.waits))
        rows.append((str(each.processes), *_cells(each.rates), *waits))
    return table(rows)


def _cells(values: Sequence[float]) -> tuple[str, str]:
    return middle(values), extremes(values)


def _series(seconds: Sequence[float]) -> tuple[str, str, str, str]:
    milli = _milli(seconds)
    return *_cells(milli), number(milli[0]), number(milli[-1])


def _milli(seconds: Iterable[float]) -> list[float]:
    return [each * 1000 for each in seconds]
