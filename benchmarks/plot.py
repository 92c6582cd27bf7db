# SPDX-License-Identifier: Apache-2.0
"""Inodes against seconds, as an SVG file that is the same for the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Spread
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
# No date, and no version of what has drawn it.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True, slots=True)
class Line:
    """One contender.

    :param name: its name.
    :param inodes: sizes of the trees.
    :param spreads: of its seconds at each.
    """

    name: str
    inodes: tuple[int, ...]
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


def lines(found: Sequence[Race]) -> list[Line]:
    """All contenders, the slowest on the largest tree first."""
    inodes = tuple(race.inodes for race in found)
    by_name = zip(*(race.results for race in found), strict=True)
    made = [
        Line(
            same[0].name,
            inodes,
            tuple(Spread.of(each.seconds) for each in same),
        )
        for same in by_name
    ]
    return sorted(made, key=lambda line: -line.spreads[-1].median)


def is_installed() -> bool:
    """Whether there is something to draw with."""
    return find_spec("matplotlib") is not None


def draw(found: Sequence[Race], target: Path) -> None:
    """Write the plot."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    # No random names of elements, and text as text.
    settings = {"svg.hashsalt": "lxc-userns", "svg.fonttype": "none"}
    with mpl.rc_context({**settings, "font.size": 9}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot(
            xscale="log", yscale="log", xlabel="inodes", ylabel="time"
        )
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(EngFormatter("s"))
        for line in lines(found):
            color, marker, linestyle = STYLES[line.name]
            axes.errorbar(
                line.inodes,
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
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(target, format="svg", metadata=_NO_METADATA)
