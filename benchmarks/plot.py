# SPDX-License-Identifier: Apache-2.0
"""Sizes against seconds, as SVG files that are the same for the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.leases import holding
from benchmarks.leases.holding import Holding
from benchmarks.measure import Column, Spread
from benchmarks.race import Race

# Colour, marker and line of each contender. Ours in colours, one for each
# strategy, what others do in greys; the three are told apart by nearly all.
_CHOWN, _IDMAPPED, _OVERLAY = "#0072b2", "#d55e00", "#009e73"
STYLES = {
    "chown -hR": ("#000000", "o", "-"),
    "plain walk in Python": ("#999999", "v", "-"),
    "fuidshift (LXD)": ("#666666", "s", "-"),
    "Nova's idmapshift": ("#888888", "D", "-"),
    "idmapped by hand": ("#000000", "x", ":"),
    "rootfs.shift": (_CHOWN, "o", "-"),
    "rootfs.mount_idmapped": (_IDMAPPED, "o", "-"),
    "rootfs.mount_overlay": (_OVERLAY, "o", "-"),
    "prepare, chown": (_CHOWN, "^", "--"),
    "prepare, idmapped": (_IDMAPPED, "^", "--"),
    "prepare, overlay": (_OVERLAY, "^", "--"),
}
#: The same for what is done with a lease: acquire in one colour, and what it
#: is compared with in greys.
LEASE_STYLES = {
    holding.ACQUIRE: (_IDMAPPED, "o", "-"),
    holding.REUSE: (_IDMAPPED, "s", "--"),
    holding.AGAIN: (_IDMAPPED, "v", ":"),
    holding.RELEASE: (_CHOWN, "o", "-"),
    holding.DATABASE: ("#000000", "x", "-"),
    holding.FILE: ("#999999", "D", "-"),
}
#: Seconds that an acquire may take.
LIMIT = 0.005
# No date, and no version of what has drawn it.
#: Axes of less than three powers of ten have names in between.
_FEW = 1000
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True, slots=True)
class Line:
    """One contender.

    :param name: its name.
    :param sizes: at which it took part.
    :param spreads: of its seconds at each.
    """

    name: str
    sizes: tuple[int, ...]
    spreads: tuple[Spread, ...]

    @property
    def medians(self) -> list[float]:
        """What is drawn."""
        return [each.median for each in self.spreads]

    @property
    def errors(self) -> list[list[float]]:
        """How far below and above these the spread goes."""
        return [
            [each.median - each.least for each in self.spreads],
            [each.most - each.median for each in self.spreads],
        ]


def lines(columns: Iterable[Column]) -> list[Line]:
    """All contenders, the slowest at the last size first."""
    sizes, results = zip(*columns, strict=True)
    made = [
        Line(
            same[0].name,
            sizes,
            tuple(Spread.of(each.seconds) for each in same),
        )
        for same in zip(*results, strict=True)
    ]
    return sorted(made, key=lambda line: -line.spreads[-1].median)


def is_installed() -> bool:
    """Whether there is something to draw with."""
    return find_spec("matplotlib") is not None


def draw(found: Sequence[Race], target: Path) -> None:
    """Write the plot of root filesystems."""
    columns = [race.column for race in found]
    with _axes(
        target, xscale="log", yscale="log", xlabel="number of inodes"
    ) as axes:
        _draw_lines(axes, lines(columns), STYLES)


def draw_leases(found: Sequence[Holding], target: Path) -> None:
    """Write the plot of leases."""
    columns = [each.column for each in found]
    with _axes(target, yscale="log", xlabel="number of leases held") as axes:
        # Logarithmic too, but for a place for none at all.
        axes.set_xscale("symlog", linthresh=100)
        axes.set_xticks([each.held for each in found])
        _draw_lines(axes, lines(columns), LEASE_STYLES)
        axes.axhline(LIMIT, color="#cc0000", linewidth=1, label="5 ms")


@contextmanager
def _axes(target: Path, **options: str) -> Iterator[Any]:
    """What to draw on, which is written afterwards."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        EngFormatter,
        NullFormatter,
        StrMethodFormatter,
    )

    # No random names of elements, and text as text.
    settings = {"svg.hashsalt": "lxc-userns", "svg.fonttype": "none"}
    with mpl.rc_context({**settings, "font.size": 9}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        label = "time (median, least and most)"
        axes = figure.add_subplot(ylabel=label, **options)
        yield axes
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(EngFormatter("s"))
        # Between few powers of ten, those in between are named too; without
        # this as powers of ten, and without the unit.
        low, high = axes.get_ylim()
        between = EngFormatter("s") if high < _FEW * low else NullFormatter()
        axes.yaxis.set_minor_formatter(between)
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(target, format="svg", metadata=_NO_METADATA)


def _draw_lines(
    axes: Any, drawn: Iterable[Line], styles: Mapping[str, tuple[str, ...]]
) -> None:
    for line in drawn:
        color, marker, linestyle = styles[line.name]
        axes.errorbar(
            line.sizes,
            line.medians,
            yerr=line.errors,
            label=line.name,
            color=color,
            marker=marker,
            markersize=4,
            linestyle=linestyle,
            linewidth=1.3,
            capsize=2,
        )
