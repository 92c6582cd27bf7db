# SPDX-License-Identifier: Apache-2.0
"""Measure; print tables, and write them down if asked."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import document, machine, plot, race, scratch
from benchmarks.child import id_map_text
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.debian import alternatives, image, sharing, starting, unpacking
from benchmarks.leases import crowd, holding, neighbours
from benchmarks.measure import clock_command, take_turns
from benchmarks.scratch import Scratch
from benchmarks.trees import Tree
from lxc_userns.libvirtd.client import silence
from tests.functional.capabilities import in_private_libvirtd

#: A section of the numbers: its name, and what was found, in plain types.
Section = tuple[str, Any]

_COPIES, _JOURNEYS = 3, 3


def main() -> int:
    """Run all benchmarks."""
    arguments = _parse()
    if os.geteuid() != 0:
        print("benchmarks: changing owners needs root", file=sys.stderr)
        return 1
    found: dict[str, Any] = {}
    with scratch.made(arguments.filesystem) as place:
        for name, section in _measure(place, arguments):
            found[name] = section
            _show(name, section)
        _say("cleaning up")
    _say("")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.doc:
        if {*arguments.only} != {*_GROUPS}:
            found = document.renewed(document.read(arguments.doc), found)
        document.write(found, arguments.doc)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__
    )
    parser.add_argument(
        "--inodes",
        type=int,
        default=100_000,
        help="size of a tree that is made ready by all; so are some of a "
        "hundredth, a tenth and three times that (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="how often each of them has a turn, on the largest tree three "
        "fifths of that (default: %(default)s)",
    )
    parser.add_argument(
        "--views",
        type=int,
        default=100,
        help="how many overlays share an image (default: %(default)s)",
    )
    parser.add_argument(
        "--held",
        type=int,
        nargs="+",
        default=[0, 100, 1000, 3000, 10_000],
        metavar="LEASES",
        help="how many leases there are when one more is acquired (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--lease-rounds",
        type=int,
        default=60,
        metavar="ROUNDS",
        help="how often one is, beside each of these (default: %(default)s)",
    )
    parser.add_argument(
        "--filesystem",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - a directory is made in it
        metavar="DIR",
        help="directory in which all is made (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        choices=_GROUPS,
        nargs="+",
        default=_GROUPS,
        metavar="GROUP",
        help="what is measured, of %(choices)s (default: all)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write all numbers"
    )
    parser.add_argument(
        "--doc",
        type=Path,
        metavar="DIR",
        help="where to write the pages and plots of the documentation; with "
        "--only, what else is there is kept",
    )
    arguments = parser.parse_args()
    if arguments.doc and not plot.is_installed():
        parser.error("--doc draws with matplotlib, which is not installed")
    return arguments


def _measure(
    place: Scratch, arguments: argparse.Namespace
) -> Iterator[Section]:
    yield "machine", machine.describe(place.path)
    for name in arguments.only:
        yield from _GROUPS[name](place, arguments)


def _measure_trees(
    place: Scratch, arguments: argparse.Namespace
) -> Iterator[Section]:
    """Run everything on one tree, which only grows."""
    tree = Tree(place.closed / "tree")
    inodes, rounds = arguments.inodes, arguments.rounds
    plan = [(part, rounds) for part in (inodes // 100, inodes // 10, inodes)]
    # There, a round takes as long as all others.
    plan.append((3 * inodes, -(-rounds * 3 // 5)))
    races, sizes = [], []
    with race.lanes(list(_present()), place) as lanes:
        for number, (size, turns) in enumerate(plan):
            _say(f"making a tree of {size} inodes")
            tree.grow(size)
            if number == 0:
                race.check(tree, lanes, _say)
            sizes.append(race.measure_size(tree, _say))
            races.append(race.run(tree, lanes, turns, _say))
    yield "ready", [each.to_json() for each in races]
    yield "memory", [asdict(each) for each in sizes]


def _present() -> Iterator[Contender]:
    for each in CONTENDERS:
        if each.is_there:
            yield each
        else:
            _warn(f"{each.name}: left out, {each.needs} is not there")


def _measure_commands(
    place: Scratch, arguments: argparse.Namespace
) -> Iterator[Section]:
    program = str(Path(sys.executable).with_name("lxc-userns"))
    shifted, tree = place.closed / "shifted", place.closed / "small"
    view = place.run_path("command")
    for path in (shifted, tree, view):
        path.mkdir()
    maps = [f"--{kind}-map={id_map_text()}" for kind in ("uid", "gid")]
    argvs = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "lxc-userns --version": [program, "--version"],
        "lxc-userns rootfs shift, of a shifted tree": [
            *(program, "rootfs", "shift", str(shifted), *maps)
        ],
        "lxc-userns rootfs mount": [
            *(program, "rootfs", "mount", str(tree), str(view), *maps)
        ],
        "lxc-userns rootfs unmount": [program, "rootfs", "unmount", str(view)],
    }
    takers = {
        name: partial(clock_command, argv) for name, argv in argvs.items()
    }
    for taker in takers.values():
        taker()
    found = take_turns(takers, arguments.rounds, "command line", _say)
    yield "commands", [each.to_json() for each in found]


def _measure_debian(
    place: Scratch, arguments: argparse.Namespace
) -> Iterator[Section]:
    _say("making a Debian system")
    system = image.make(place.closed)
    if system is None:
        return
    yield "image", system.describe()
    rounds = arguments.rounds
    found = unpacking.measure(system, place.closed, rounds, _say)
    yield "unpacking", [each.to_json() for each in found]
    shared = sharing.measure(system, place, arguments.views, _COPIES, _say)
    yield "sharing", shared.to_json()
    if not in_private_libvirtd():
        _warn("containers: left out, there is no private libvirtd")
        return
    started = starting.measure(system, place, rounds, _say)
    yield "starts", [each.to_json() for each in started]
    accounts = alternatives.measure(system, place, _JOURNEYS, _say)
    yield "alternatives", [each.to_json() for each in accounts]


def _measure_leases(
    place: Scratch, arguments: argparse.Namespace
) -> Iterator[Section]:
    path, rounds = place.closed / "leases", arguments.lease_rounds
    path.mkdir()
    silence()
    found = holding.measure(path, arguments.held, rounds, _say)
    yield "leases", [each.to_json() for each in found]
    most, rounds = max(arguments.held), arguments.rounds
    beside = neighbours.measure(path, most, rounds, _say)
    yield "lease neighbours", [each.to_json() for each in beside]
    crowds = crowd.measure(path, most, rounds, _say)
    yield "lease crowds", [each.to_json() for each in crowds]


#: In this order: the trees are put back again and again.
_GROUPS = {
    "commands": _measure_commands,
    "leases": _measure_leases,
    "debian": _measure_debian,
    "trees": _measure_trees,
}


def _show(name: str, section: Any) -> None:
    _say("")
    for title, lines in document.parts(name, section):
        print("", title, *document.spaced(lines), sep="\n", flush=True)


def _warn(text: str) -> None:
    _say("")
    print(text, flush=True)


def _say(text: str) -> None:
    """Say what goes on, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
