# SPDX-License-Identifier: Apache-2.0
"""Sizes against seconds, as SVG files that are the same for the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tables import PLAN, Cell

#: How all plots look.
_STYLE = Path(__file__).with_name("plot.mplstyle")
# Axes of less than three powers of ten have names in between.
_FEW = 1000
# No date, and no version of what has drawn it.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def write(cells: Sequence[Cell], directory: Path) -> None:
    """Write the plots of what was measured."""
    if ready := rows(cells, "ready"):
        with _drawn("ready", ready, directory) as axes:
            axes.set(xscale="log", xlabel="number of inodes")
    if held := rows(cells, "leases"):
        with _drawn("leases", held, directory) as axes:
            # Logarithmic too, but for a place for none at all.
            axes.set_xscale("symlog", linthresh=100)
            axes.set_xlabel("number of leases held")
            axes.set_xticks([int(each.column) for each in held["acquire"]])
            axes.axhline(0.005, color="#cc0000", linewidth=1, label="5 ms")


def rows(cells: Sequence[Cell], table: str) -> dict[str, list[Cell]]:
    """Return the cells of each row, the slowest at its last size first."""
    found: dict[str, list[Cell]] = {}
    for each in cells:
        if each.table == table:
            found.setdefault(each.row, []).append(each)
    slowest = sorted(found.items(), key=lambda row: -float(row[1][-1].median))
    return dict(slowest)


@contextmanager
def _drawn(
    table: str, drawn: dict[str, list[Cell]], directory: Path
) -> Iterator[Any]:
    """Yield the axes, of which more may be said before all is written."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib import ticker
    from matplotlib.figure import Figure

    with mpl.rc_context(fname=_STYLE):
        figure = Figure()
        label = "time (median, least and most)"
        axes = figure.add_subplot(ylabel=label, yscale="log")
        for name, row in drawn.items():
            numbers = [[float(each) / 1000 for each in c[4:]] for c in row]
            middle, least, most = map(np.array, zip(*numbers, strict=True))
            sizes = [int(each.column) for each in row]
            color, marker, line = PLAN["styles"][table][name].split()
            axes.errorbar(
                *(sizes, middle, [middle - least, most - middle]),
                color=color,
                marker=marker,
                linestyle=line,
                label=name,
            )
        yield axes
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        units = ticker.EngFormatter("s")
        axes.yaxis.set_major_formatter(units)
        # Between few powers of ten, those in between are named too; without
        # this as powers of ten, and without the unit.
        low, high = axes.get_ylim()
        minor = units if high < _FEW * low else ticker.NullFormatter()
        axes.yaxis.set_minor_formatter(minor)
        figure.legend(loc="outside right upper")
        target = directory / f"{table}.svg"
        figure.savefig(target, format="svg", metadata=_NO_METADATA)
