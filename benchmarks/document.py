# SPDX-License-Identifier: Apache-2.0
"""Pages and a plot of what was measured.

usage: python -m benchmarks.document FILE.json DIRECTORY

writes into DIRECTORY, the documentation's, what the run that wrote FILE would
have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import plot, report
from benchmarks.debian.alternatives import Account
from benchmarks.debian.sharing import Sharing
from benchmarks.debian.starting import Start
from benchmarks.leases.crowd import Crowd
from benchmarks.leases.holding import Holding
from benchmarks.leases.neighbours import Neighbours
from benchmarks.measure import Result
from benchmarks.race import Race, Size

Found = Mapping[str, Any]
Lines = Iterator[str]
#: A heading, and a table below it.
Part = tuple[str, Lines]

_ON_STEPS = ("machine", "image", "alternatives")
#: Which sections were measured on another machine than the rest, and on which.
_ELSEWHERE = "elsewhere"
JSON, PLOT = "measured.json", "ready.svg"
LEASES_PLOT = "leases.svg"
PAGE, STEPS = "measured.rst", "measured-alternatives.rst"
_HEAD = (
    ".. SPDX-License-Identifier: Apache-2.0",
    "",
    '.. Written by "python -m benchmarks"; changes will be lost.',
)


def parts(name: str, found: Any) -> Iterator[Part]:
    """The tables of a section."""
    return _SECTIONS[name](found)


def spaced(lines: Lines) -> list[str]:
    """An empty line before a table, if there is one."""
    found = list(lines)
    return ["", *found] if found else []


def _machine(found: Mapping[str, str]) -> Iterator[Part]:
    yield ", ".join(found.values()), iter(())


def _ready(found: list[Found]) -> Iterator[Part]:
    races = [Race.from_json(each) for each in found]
    rounds = ", ".join(str(len(each.results[0].seconds)) for each in races)
    yield (
        f"Milliseconds to make a root filesystem ready ({rounds} rounds)",
        report.race_times(races),
    )
    first = races[0].results[0].name
    yield f"The same as ratio to {first}", report.race_ratios(races)


def _memory(found: list[Found]) -> Iterator[Part]:
    sizes = [Size(**each) for each in found]
    yield "Memory of a shift, and a second shift", report.sizes(sizes)


def _commands(found: list[Found]) -> Iterator[Part]:
    results = [Result.from_json(each) for each in found]
    yield "Command line, from start to end", report.commands(results)


def _image(found: Mapping[str, int]) -> Iterator[Part]:
    archive, tree = (
        found[key] / (1 << 20) for key in ("archive_bytes", "tree_bytes")
    )
    yield (
        f"The Debian system: {found['inodes']} inodes, {tree:.0f} MiB on "
        f"disk, {archive:.0f} MiB as archive",
        iter(()),
    )


def _unpacking(found: list[Found]) -> Iterator[Part]:
    results = [Result.from_json(each) for each in found]
    yield "Unpacking the Debian system", report.unpacking(results)


def _sharing(found: Found) -> Iterator[Part]:
    yield (
        "One more container from the Debian system",
        report.sharing(Sharing.from_json(found)),
    )


def _starts(found: list[Found]) -> Iterator[Part]:
    starts = [Start.from_json(each) for each in found]
    yield (
        "Milliseconds to start a container from the Debian system, medians",
        report.starts(starts),
    )


def _alternatives(found: list[Found]) -> Iterator[Part]:
    accounts = [Account.from_json(each) for each in found]
    yield (
        "Seconds from the archive to a started container, by when owners "
        "are shifted",
        report.alternatives(accounts),
    )
    for each in accounts:
        yield each.name[0].upper() + each.name[1:], report.account(each)


def _leases(found: list[Found]) -> Iterator[Part]:
    holdings = [Holding.from_json(each) for each in found]
    rounds = len(holdings[0].results[0].seconds)
    yield (
        f"Milliseconds for a lease, by how many are held ({rounds} rounds, "
        f"{holdings[0].processes} processes to look at)",
        report.leases(holdings),
    )


def _neighbours(found: list[Found]) -> Iterator[Part]:
    each, *_ = neighbours = [Neighbours.from_json(each) for each in found]
    yield (
        f"Milliseconds to acquire with {each.held} held, by the processes to "
        f"look at ({len(each.seconds)} turns)",
        report.neighbours(neighbours),
    )


def _crowds(found: list[Found]) -> Iterator[Part]:
    each, *_ = crowds = [Crowd.from_json(each) for each in found]
    rounds = len(each.seconds)
    yield (
        f"Processes that acquire {len(each.waits) // rounds} leases at once, "
        f"with {each.held} held ({rounds} rounds)",
        report.crowds(crowds),
    )


_SECTIONS: Mapping[str, Callable[[Any], Iterator[Part]]] = {
    "machine": _machine,
    "ready": _ready,
    "memory": _memory,
    "commands": _commands,
    "image": _image,
    "unpacking": _unpacking,
    "sharing": _sharing,
    "starts": _starts,
    "alternatives": _alternatives,
    "leases": _leases,
    "lease neighbours": _neighbours,
    "lease crowds": _crowds,
}


def renewed(earlier: Found, found: Found) -> dict[str, Any]:
    """What an earlier run has found, with some sections measured anew.

    :param earlier: empty if there was none.
    :param found: the new ones, and their machine.
    """
    machine = earlier.get("machine", found["machine"])
    elsewhere = {**earlier.get(_ELSEWHERE, {})}
    for name in found:
        elsewhere.pop(name, None)
        if name != "machine" and not _agree(machine, found["machine"]):
            elsewhere[name] = found["machine"]
    both = {**earlier, **found, "machine": machine, _ELSEWHERE: elsewhere}
    if not elsewhere:
        del both[_ELSEWHERE]
    return both


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two descriptions are of the same machine."""
    # A program that only one of them has makes no difference.
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def read(directory: Path) -> dict[str, Any]:
    """What an earlier run has written there, empty if none has."""
    try:
        text = (directory / JSON).read_text()
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = json.loads(text)
    return found


def write(found: Found, directory: Path) -> None:
    """Write pages, plot and all numbers into the documentation."""
    text = json.dumps(found, indent=1)
    (directory / JSON).write_text(f"{text}\n")
    _write_page(directory / STEPS, found, _ON_STEPS)
    others = (name for name in _SECTIONS if name != "alternatives")
    _write_page(directory / PAGE, found, others)
    if "ready" in found:
        races = [Race.from_json(each) for each in found["ready"]]
        plot.draw(races, directory / PLOT)
    if "leases" in found:
        holdings = [Holding.from_json(each) for each in found["leases"]]
        plot.draw_leases(holdings, directory / LEASES_PLOT)


def _write_page(path: Path, found: Found, names: Iterable[str]) -> None:
    lines = [*_HEAD]
    elsewhere, where = found.get(_ELSEWHERE, {}), found["machine"]
    for name in filter(found.__contains__, names):
        before, where = where, elsewhere.get(name, found["machine"])
        if where != before:
            lines += ["", f"On {', '.join(where.values())}:"]
        for title, rows in parts(name, found[name]):
            lines += ["", title, *spaced(rows)]
    path.write_text("\n".join(lines) + "\n")


def main(source: str, directory: str) -> None:
    """Write them from what an earlier run has found."""
    write(json.loads(Path(source).read_text()), Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
