# SPDX-License-Identifier: Apache-2.0
"""Numbers of what was measured: a CSV file, and tables made of it."""

import csv
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.measure import Times

PAGE, STEPS, CSV = "measured.rst", "measured-alternatives.rst", "measured.csv"
_MACHINE = "machine"
_HEAD = (
    ".. SPDX-License-Identifier: Apache-2.0\n\n"
    '.. Written by "python -m benchmarks"; changes will be lost.\n'
)
#: What is compared, and how that is shown.
PLAN = tomllib.loads(Path(__file__).with_name("plan.toml").read_text())
_TABLES: dict[str, str] = PLAN["tables"]
_ON_STEPS = ("alternatives", "step")


class Cell(NamedTuple):
    """A cell of a table, as a line of the file has it.

    :param table: a key of the tables; steps have their way after it.
    :param turns: how many measurements there were.
    :param least: empty, as ``most``, if only the median is of interest.
    """

    table: str
    row: str
    column: str
    turns: str = ""
    median: str = ""
    least: str = ""
    most: str = ""

    @property
    def kind(self) -> str:
        """The key of the table, of which a machine's cell tells."""
        table = self.row if self.table == _MACHINE else self.table
        return table.partition(": ")[0]


def cell(
    *names: str, values: Iterable[float], by: float = 1, spread: bool = True
) -> Cell:
    """Sum up several measurements.

    :param names: of the table, the row and the column.
    :param by: what they are multiplied by: 1000 makes milliseconds.
    :param spread: whether the least and the most are of interest.
    """
    table, row, column = names
    found = [value * by for value in values]
    kinds = (median, min, max) if spread else (median,)
    texts = [_number(kind(found)) for kind in kinds]
    return Cell(table, row, column, str(len(found)), *texts)


def single(table: str, row: str, **values: float) -> Iterator[Cell]:
    """Return numbers without a spread; names of columns have no spaces."""
    for name, value in values.items():
        names = table, row, name.replace("_", " ")
        yield cell(*names, values=[value], spread=False)


def timed(
    table: str, times: Times, column: str = "ms", by: float = 1000
) -> Iterator[Cell]:
    """Return what was taken by turns, a row of each."""
    for row, seconds in times.items():
        yield cell(table, row, column, values=seconds, by=by)


def ratios(table: str, times: Times, column: str = "ratio") -> Iterator[Cell]:
    """Return ratios to the first, of times of the same round.

    What slows the whole machine for a while cancels out.
    """
    first = next(iter(times.values()))
    for name, seconds in times.items():
        values = [one / to for one, to in zip(seconds, first, strict=True)]
        yield cell(table, name, column, values=values)


def _number(value: float) -> str:
    """Return a number with three digits that count, and no exponent."""
    if isinstance(value, int) or not value:
        return f"{value:.0f}"
    decimals = 2 - floor(log10(value))
    return f"{value:.{min(max(decimals, 0), 5)}f}"


def planned(table: str, **words: object) -> dict[str, list[str]]:
    """Return the commands of a table, with some words filled in."""
    return {
        row: shlex.split(command.format_map(words))
        for row, command in PLAN[table].items()
    }


def read(directory: Path) -> list[Cell]:
    """Return what an earlier run has written there, empty if none has."""
    if not (directory / CSV).exists():
        return []
    with (directory / CSV).open(newline="") as stream:
        return [Cell(*line) for line in csv.reader(stream)][1:]


def renewed(
    earlier: Sequence[Cell], found: Sequence[Cell], machine: str
) -> list[Cell]:
    """Return all cells, with some tables measured anew on a machine."""
    new = {each.kind for each in found}
    cells = [Cell(_MACHINE, kind, machine) for kind in new]
    cells += [each for each in earlier if each.kind not in new]
    order = [*_TABLES]

    def key(each: Cell) -> tuple[bool, int]:
        return each.table != _MACHINE, order.index(each.kind)

    return sorted([*cells, *found], key=key)


def write(cells: Sequence[Cell], directory: Path) -> None:
    """Write the file and the pages."""
    with (directory / CSV).open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([Cell._fields, *cells])
    machines = {m.kind: m.column for m in cells if m.table == _MACHINE}
    for name, on_it in (PAGE, False), (STEPS, True):
        some = [each for each in cells if (each.kind in _ON_STEPS) is on_it]
        lines = "\n".join(lines_of(some, machines))
        (directory / name).write_text(f"{_HEAD}{lines}\n")


def lines_of(
    cells: Sequence[Cell], machines: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Return the lines of all tables.

    :param machines: what each was measured on; said where it changes.
    """
    where = ""
    for name in dict.fromkeys(c.table for c in cells if c.table != _MACHINE):
        same = [each for each in cells if each.table == name]
        if machines and where != (where := machines[same[0].kind]):
            yield from ("", f"On {where}:")
        title, head = _TABLES[same[0].kind].split(";")
        way = name.partition(": ")[2]
        yield from ("", title or way[0].upper() + way[1:], "")
        yield from _table(same, head)


def _table(cells: Sequence[Cell], head: str) -> list[str]:
    """Return the lines of one table, which is made column by column."""
    places = {(each.row, each.column): each for each in cells}
    rows = dict.fromkeys(row for row, _ in places)
    columns = [[head, *rows]]
    for name in dict.fromkeys(column for _, column in places):
        found = [places.get((row, name), Cell("", row, name)) for row in rows]
        columns.append([name, *(each.median for each in found)])
        if any(each.least for each in found):
            spreads = (f"{each.least}-{each.most}" for each in found)
            columns.append(["min-max", *(each.strip("-") for each in spreads)])
    widths = [max(map(len, column)) for column in columns]
    rule = " ".join("=" * width for width in widths)
    lines = []
    for first, *others in zip(*columns, strict=True):
        texts = map(str.rjust, others, widths[1:])
        lines.append(" ".join([first.ljust(widths[0]), *texts]).rstrip())
    return [rule, lines[0], rule, *lines[1:], rule]
