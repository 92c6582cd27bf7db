# SPDX-License-Identifier: Apache-2.0
"""Measure; print tables, and write all numbers to a file if asked."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import measure, report
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.trees import Tree

_COMMAND_ROUNDS = 5


def main() -> int:
    """Run all benchmarks."""
    arguments = _parse()
    if os.geteuid() != 0:
        print("benchmarks: changing owners needs root", file=sys.stderr)
        return 1
    found: dict[str, Any] = {}
    with _scratch(arguments.filesystem) as directory:
        found["machine"] = _describe_machine(directory)
        print(", ".join(found["machine"].values()))
        found |= _run(directory, arguments.inodes, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__
    )
    parser.add_argument(
        "--inodes",
        type=int,
        default=100_000,
        help="size of the tree that is shifted by all (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="how often each of them shifts it (default: %(default)s)",
    )
    parser.add_argument(
        "--filesystem",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - a directory is made in it
        metavar="DIR",
        help="directory in which the tree is made (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write all numbers"
    )
    return parser.parse_args()


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="lxc-userns-bench-", dir=parent))
    try:
        yield directory
    finally:
        _say("cleaning up")
        shutil.rmtree(directory)
        _say("")


def _describe_machine(directory: Path) -> dict[str, str]:
    argv = ["findmnt", "-n", "-o", "FSTYPE", "-T", str(directory)]
    filesystem = subprocess.run(
        argv, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    return {
        "kernel": f"Linux {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "cpus": f"{len(os.sched_getaffinity(0))} CPUs",
        "filesystem": filesystem,
    }


def _run(directory: Path, inodes: int, rounds: int) -> dict[str, Any]:
    """Run everything on one tree, which only grows."""
    tree = Tree(directory / "tree")
    sizes = [
        _measure_size(tree, size)
        for size in (inodes // 100, inodes // 10, inodes)
    ]
    results = measure.race(tree, list(_present()), rounds, _say)
    _show(f"Shift of {tree.inodes} inodes", report.races(results))
    sizes.append(_measure_size(tree, 3 * inodes))
    _show("Memory of a shift, and a second shift", report.sizes(sizes))
    return {
        "race": [each.to_json() for each in results],
        "sizes": [asdict(each) for each in sizes],
        "commands": _run_commands(directory),
    }


def _measure_size(tree: Tree, inodes: int) -> measure.Size:
    _say(f"making a tree of {inodes} inodes")
    tree.grow(inodes)
    return measure.measure_size(tree, _say)


def _present() -> Iterator[Contender]:
    for each in CONTENDERS:
        if each.is_there:
            yield each
        else:
            print(f"{each.name}: left out, {each.needs} is not installed")


def _run_commands(directory: Path) -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("lxc-userns"))
    empty = directory / "empty"
    empty.mkdir()
    maps = "0:100000:65536"
    shift = [program, "rootfs", "shift", str(empty)]
    shift += ["--uid-map", maps, "--gid-map", maps]
    found = measure.time_commands(
        {
            "python -c pass": [sys.executable, "-c", "pass"],
            "lxc-userns --version": [program, "--version"],
            "lxc-userns rootfs shift, of a shifted tree": shift,
        },
        _COMMAND_ROUNDS,
        _say,
    )
    _show("Command line, from start to end", report.commands(found))
    return {name: asdict(spread) for name, spread in found.items()}


def _show(title: str, lines: Iterator[str]) -> None:
    _say("")
    print(f"\n{title}\n", *lines, sep="\n", flush=True)


def _say(text: str) -> None:
    """Say what goes on, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
