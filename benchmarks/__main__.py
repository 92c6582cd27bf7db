# SPDX-License-Identifier: Apache-2.0
"""Measure; print tables, and write them down if asked."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import libvirt

from benchmarks import (
    commands,
    contenders,
    debian,
    hook,
    leases,
    plot,
    tables,
)
from benchmarks.measure import describe
from benchmarks.scratch import Scratch, made
from benchmarks.tables import PLAN, Cell
from tests.functional.capabilities import in_private_libvirtd

Group = Callable[[Scratch, argparse.Namespace], Iterator[Cell]]
#: In this order: the trees are put back again and again.
_GROUPS: dict[str, Group] = {
    "commands": commands.measure,
    "hook": hook.measure,
    "running": commands.measure_running,
    "leases": leases.measure,
    "debian": debian.measure,
    "trees": contenders.measure,
}
_WITH_LIBVIRTD = ("hook", "running")


def main() -> int:
    """Run all benchmarks."""
    asked = _parse()
    if os.geteuid() != 0:
        print("benchmarks: changing owners needs root", file=sys.stderr)
        return 1
    # It prints its errors, also those that are expected.
    libvirt.registerErrorHandler(lambda *_: None, None)
    found: list[Cell] = []
    with made(asked.filesystem) as scratch:
        where = describe(scratch.path)
        print(where, flush=True)
        for name in asked.only:
            if name in _WITH_LIBVIRTD and not in_private_libvirtd():
                print(f"{name}: left out, there is no private libvirtd")
                continue
            new = list(_GROUPS[name](scratch, asked))
            print(*tables.lines_of(new), sep="\n", flush=True)
            found += new
    if asked.doc:
        cells = tables.renewed(tables.read(asked.doc), found, where)
        tables.write(cells, asked.doc)
        plot.write(cells, asked.doc)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, options in PLAN["numbers"].items():
        parser.add_argument(f"--{name}", type=int, **options)
    for name, options in PLAN["paths"].items():
        parser.add_argument(f"--{name}", type=Path, **options)
    groups: dict[str, Any] = {"choices": _GROUPS, "default": [*_GROUPS]}
    parser.add_argument("--only", nargs="+", help="what is measured", **groups)
    asked = parser.parse_args()
    if asked.doc and not find_spec("matplotlib"):
        parser.error("--doc draws with matplotlib, which is not installed")
    return asked


if __name__ == "__main__":
    sys.exit(main())
