# SPDX-License-Identifier: Apache-2.0
"""Sizes against seconds, as SVG files that are the same for the same."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tables import PLAN, Cell

READY, LEASES = "ready.svg", "leases.svg"
# Axes of less than three powers of ten have names in between.
_FEW = 1000
# No date, and no version of what has drawn it.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def write(cells: Sequence[Cell], directory: Path) -> None:
    """Write the plots of what was measured."""
    if ready := rows(cells, "ready"):
        label = "number of inodes"
        with _axes(directory / READY, xscale="log", xlabel=label) as axes:
            _draw(axes, ready, PLAN["styles"]["ready"])
    if held := rows(cells, "leases"):
        with _axes(directory / LEASES, xlabel="number of leases held") as axes:
            # Logarithmic too, but for a place for none at all.
            axes.set_xscale("symlog", linthresh=100)
            axes.set_xticks([int(each.column) for each in held["acquire"]])
            _draw(axes, held, PLAN["styles"]["leases"])
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
def _axes(target: Path, **options: str) -> Iterator[Any]:
    """Yield what to draw on, which is written afterwards."""
    import matplotlib as mpl
    from matplotlib import ticker
    from matplotlib.figure import Figure

    # No random names of elements, and text as text.
    settings = {"svg.hashsalt": "lxc-userns", "svg.fonttype": "none"}
    with mpl.rc_context({**settings, "font.size": 9}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        label = "time (median, least and most)"
        axes = figure.add_subplot(ylabel=label, yscale="log", **options)
        yield axes
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        units = ticker.EngFormatter("s")
        axes.yaxis.set_major_formatter(units)
        # Between few powers of ten, those in between are named too; without
        # this as powers of ten, and without the unit.
        low, high = axes.get_ylim()
        minor = units if high < _FEW * low else ticker.NullFormatter()
        axes.yaxis.set_minor_formatter(minor)
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(target, format="svg", metadata=_NO_METADATA)


def _draw(
    axes: Any, drawn: Mapping[str, list[Cell]], styles: Mapping[str, str]
) -> None:
    for name, row in drawn.items():
        values = [[float(each) / 1000 for each in cell[4:]] for cell in row]
        spreads = [(some[0] - some[1], some[2] - some[0]) for some in values]
        sizes = [int(each.column) for each in row]
        color, marker, line = styles[name].split()
        options = {"color": color, "marker": marker, "linestyle": line}
        axes.errorbar(
            *(sizes, [some[0] for some in values]),
            yerr=[*zip(*spreads, strict=True)],
            label=name,
            **{**options, "markersize": 4, "linewidth": 1.3, "capsize": 2},
        )
