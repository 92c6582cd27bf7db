# SPDX-License-Identifier: Apache-2.0
"""Measure; print tables, and write them down if asked."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import (
    contenders,
    debian,
    hook,
    leases,
    machine,
    plot,
    running,
    tables,
)
from benchmarks.measure import clock, run, say, take_turns
from benchmarks.scratch import ID_MAP, Scratch, made
from benchmarks.tables import PLAN, Cell, cell


def main() -> int:
    """Run all benchmarks."""
    arguments = _parse()
    if os.geteuid() != 0:
        print("benchmarks: changing owners needs root", file=sys.stderr)
        return 1
    found: list[Cell] = []
    with made(arguments.filesystem) as scratch:
        where = machine.describe(scratch.path)
        print(where, flush=True)
        for name in arguments.only:
            new = list(_GROUPS[name](scratch, arguments))
            say("")
            print(*tables.lines_of(new), sep="\n", flush=True)
            found += new
        say("cleaning up\n")
    if arguments.doc:
        cells = tables.renewed(tables.read(arguments.doc), found, where)
        tables.write(cells, arguments.doc)
        plot.write(cells, arguments.doc)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    numbers = {
        "inodes": "of a tree that is made ready by all; there are some of a "
        "hundredth, a tenth and three times that too",
        "rounds": "how often each has a turn, on the largest tree three "
        "fifths of that",
        "views": "overlays that share an image",
        "lease-rounds": "how often one more lease is acquired",
        "held": "how many leases there are then",
    }
    for name, text in numbers.items():
        default = PLAN["defaults"][name]
        many = "+" if isinstance(default, list) else None
        options: dict[str, Any] = {"default": default, "nargs": many}
        parser.add_argument(f"--{name}", type=int, help=text, **options)
    text = "directory in which all is made"
    where = PLAN["defaults"]["filesystem"]
    parser.add_argument("--filesystem", type=Path, default=where, help=text)
    text = "what is measured"
    groups: dict[str, Any] = {"choices": _GROUPS, "default": [*_GROUPS]}
    parser.add_argument("--only", nargs="+", help=text, **groups)
    text = "where the documentation is, whose pages, plots and numbers are "
    text += "written; what is not measured anew is kept"
    parser.add_argument("--doc", type=Path, help=text)
    arguments = parser.parse_args()
    if arguments.doc and not find_spec("matplotlib"):
        parser.error("--doc draws with matplotlib, which is not installed")
    return arguments


def _measure_commands(
    scratch: Scratch, arguments: argparse.Namespace
) -> Iterator[Cell]:
    words = {
        "python": sys.executable,
        "maps": f"--uid-map={ID_MAP} --gid-map={ID_MAP}",
    }
    words["program"] = str(Path(sys.executable).with_name("lxc-userns"))
    words["view"] = str(scratch.view("command"))
    for name in ("shifted", "tree"):
        (scratch.closed / name).mkdir()
        words[name] = str(scratch.closed / name)
    argvs = {
        name: shlex.split(command.format_map(words))
        for name, command in PLAN["commands"].items()
    }
    takers = {name: partial(clock, run, argvs[name]) for name in argvs}
    for taker in takers.values():
        taker()
    found = take_turns(takers, arguments.rounds, "command line")
    for name, seconds in found.items():
        yield cell("commands", name, "ms", values=seconds, by=1000)


Group = Callable[[Scratch, argparse.Namespace], Iterator[Cell]]
#: In this order: the trees are put back again and again.
_GROUPS: dict[str, Group] = {
    "commands": _measure_commands,
    "hook": lambda scratch, asked: hook.measure(scratch, asked.rounds),
    "running": lambda scratch, asked: running.measure(scratch, asked.rounds),
    "leases": lambda scratch, asked: leases.measure(
        scratch.closed / "leases", asked.held, asked.lease_rounds, asked.rounds
    ),
    "debian": lambda scratch, asked: debian.measure(
        scratch, asked.views, asked.rounds
    ),
    "trees": lambda scratch, asked: contenders.measure(
        scratch, asked.inodes, asked.rounds
    ),
}


if __name__ == "__main__":
    sys.exit(main())
