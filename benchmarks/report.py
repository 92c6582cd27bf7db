# SPDX-License-Identifier: Apache-2.0
"""Tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.measure import Result, Size, Spread

Row = Sequence[str]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table as reStructuredText has them; the first is the head.

    The first column is set to the left, the others to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    for number, row in enumerate(rows):
        if number < 2:
            yield rule
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        yield " ".join(cells).rstrip()
    yield rule


def races(results: Sequence[Result]) -> Iterator[str]:
    """Times, and ratios to the first of them."""
    rows = [("tool", "seconds", "min-max", "ratio", "min-max")]
    for each in results:
        seconds, ratio = Spread.of(each.seconds), Spread.of(each.ratios)
        rows.append(
            (
                each.name,
                f"{seconds.median:.2f}",
                f"{seconds.least:.2f}-{seconds.most:.2f}",
                f"{ratio.median:.2f}",
                f"{ratio.least:.2f}-{ratio.most:.2f}",
            )
        )
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


def commands(found: dict[str, Spread]) -> Iterator[str]:
    """Short commands."""
    rows = [("command", "ms", "min-max")]
    for name, spread in found.items():
        low, high = spread.least * 1000, spread.most * 1000
        rows.append(
            (name, f"{spread.median * 1000:.0f}", f"{low:.0f}-{high:.0f}")
        )
    return table(rows)
