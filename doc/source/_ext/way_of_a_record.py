# SPDX-License-Identifier: Apache-2.0
"""The way of a record through ``prepare``, drawn from the imports.

``.. way-of-a-record::`` draws the rooms that planning and preparing an
instance reach, in the layers of ``pyproject.toml``: a line goes from a room to
one that it imports, unless it also gets there by way of another.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TOP = Path(__file__).parents[3]
PACKAGE = "lxc_userns"
_SOURCE = TOP / "src" / PACKAGE
_START = ("plan", "prepare")
# Before it there is who calls, and who makes what is called.
_BEFORE = (("manager", "services"), *(("services", room) for room in _START))
_WIDTH, _ROW, _BOX, _GAP = 760, 56, 30, 60
_ASIDE = (0, -120, 130, -230, 40, 230, -100)
_STYLE = """
text { font: 13px monospace; fill: #1b2733; text-anchor: middle; }
.paper { fill: #ffffff; }
.box { fill: #eef3f8; stroke: #5b7a99; }
.line { fill: none; stroke: #5b7a99; stroke-width: 1.2; opacity: 0.7; }
"""
Edges = frozenset[tuple[str, str]]


def read_layers() -> list[set[str]]:
    """Return the rooms of each layer, the highest first."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    return [
        {name.strip(" ()") for name in layer.split("|")}
        for layer in contract["layers"]
    ]


def read_imports() -> dict[str, set[str]]:
    """Return what each module imports of the others, wherever it does."""
    files = {_name(path): path for path in _SOURCE.rglob("*.py")}
    return {
        name: {*_imported(path, files)} - {name}
        for name, path in files.items()
    }


def find_edges() -> Edges:
    """Return which room imports which, of those on the way.

    Without those that all others import: what is below the kernel's.
    """
    imports = read_imports()
    layers = read_layers()
    base = set.union(*layers[layers.index({"linux"}) + 1 :])
    reached: set[str] = set()
    waiting = {*_START}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= imports[module] - reached
    edges = {
        (_room(module), _room(other))
        for module in reached
        for other in imports[module]
    }
    own = {(a, b) for a, b in edges if a != b and b not in base}
    return frozenset(
        {edge for edge in own if edge[0] not in base} | {*_BEFORE}
    )


def reduce(edges: Edges) -> Edges:
    """Leave out the edges for which there is a way by another room."""
    below: dict[str, set[str]] = {}
    for room, other in edges:
        below.setdefault(room, set()).add(other)

    def reaches(start: str, end: str) -> bool:
        nexts = below.get(start, set())
        return end in nexts or any(reaches(each, end) for each in nexts)

    return frozenset(
        (room, other)
        for room, other in edges
        if not any(reaches(by, other) for by in below[room] - {other})
    )


def _name(path: Path) -> str:
    parts = path.relative_to(_SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _room(module: str) -> str:
    return module.partition(".")[0]


def _imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if _room(node.module) == PACKAGE:
            home = node.module.removeprefix(PACKAGE).lstrip(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".lstrip(".")
                yield inner if inner in known else home


def place() -> dict[str, tuple[float, float, float]]:
    """Return the left edge, top and width of the box of each room."""
    rooms = {room for edge in find_edges() for room in edge}
    rows = [sorted(layer & rooms) for layer in read_layers()]
    boxes = {}
    for number, row in enumerate(filter(None, rows)):
        widths = [max(70, 8 * len(room) + 18) for room in row]
        left = (_WIDTH - sum(widths) - _GAP * (len(row) - 1)) / 2
        # Lines from row to row pass beside the boxes in between.
        left += _ASIDE[number % len(_ASIDE)]
        for room, width in zip(row, widths, strict=True):
            boxes[room] = (left, number * _ROW + 16.0, width)
            left += width + _GAP
    return boxes


def draw() -> str:
    """Return the figure as SVG."""
    boxes = place()
    height = max(top for _, top, _ in boxes.values()) + _BOX + 16
    size = f'viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        "<title>Rooms on the way of a record through prepare, each above "
        f"those that it imports</title><style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height:g}"/>',
    ]
    for room, other in sorted(reduce(find_edges())):
        (left, top, width), (x, y, w) = boxes[room], boxes[other]
        start, end = left + width / 2, x + w / 2
        below, bend = top + _BOX, (y - top - _BOX) / 2
        lines.append(
            f'<path class="line" d="M{start:g} {below:g}C{start:g} '
            f'{below + bend:g} {end:g} {y - bend:g} {end:g} {y:g}"/>'
        )
    for room, (left, top, width) in boxes.items():
        lines += [
            f'<rect class="box" x="{left:g}" y="{top:g}" width="{width:g}" '
            f'height="{_BOX}" rx="5"/>',
            f'<text x="{left + width / 2:g}" y="{top + 20:g}">{room}</text>',
        ]
    return "\n".join([*lines, "</svg>"])


class WayOfARecord(SphinxDirective):
    """Draw it."""

    def run(self) -> list[nodes.Node]:
        """Make the figure; formats without pictures have none."""
        return [nodes.raw("", draw(), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("way-of-a-record", WayOfARecord)
    return {"parallel_read_safe": True}
