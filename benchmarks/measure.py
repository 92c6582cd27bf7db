# SPDX-License-Identifier: Apache-2.0
"""Rounds of measurements, and what they come to."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.contenders import Contender, check_shifted, run_child
from benchmarks.trees import Tree

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum up; at least one value."""
        values = list(values)
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """The times of one contender.

    :param name: its name.
    :param seconds: one for each round.
    :param ratios: of these, to the time of the first contender in the same
        round, so that what slows the whole machine for a while cancels out.
    """

    name: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self) | {
            "seconds_spread": asdict(Spread.of(self.seconds)),
            "ratio_spread": asdict(Spread.of(self.ratios)),
        }


def compare(
    times: dict[str, list[float]], baseline: Sequence[float]
) -> list[Result]:
    """Ratios to a baseline, round by round."""
    return [
        Result(
            name,
            tuple(seconds),
            tuple(
                one / other
                for one, other in zip(seconds, baseline, strict=True)
            ),
        )
        for name, seconds in times.items()
    ]


def race(
    tree: Tree, contenders: Sequence[Contender], rounds: int, say: Say
) -> list[Result]:
    """Let all contenders shift the same tree, in turns.

    :param contenders: the first is what the others are compared with.
    """
    times: dict[str, list[float]] = {each.name: [] for each in contenders}
    for number in range(1, rounds + 1):
        for each in contenders:
            say(f"round {number} of {rounds}: {each.name}")
            # What one has left to write must not slow the next.
            os.sync()
            times[each.name].append(each.run(tree))
            if number == 1:
                check_shifted(tree)
            tree.restore()
    return compare(times, times[contenders[0].name])


@dataclass(frozen=True, slots=True)
class Size:
    """What a shift takes on trees of different size.

    :param inodes: inodes of the tree.
    :param coordinator_kib: highest resident memory of the calling process.
    :param workers_kib: the same of all processes it has started, summed up.
    :param workers: how many of them there were.
    :param again: seconds of a second shift, which finds it done.
    """

    inodes: int
    coordinator_kib: int
    workers_kib: int
    workers: int
    again: float


def measure_size(tree: Tree, say: Say) -> Size:
    """Shift a tree once for its memory, and again for its time."""
    say(f"memory at {tree.inodes} inodes")
    found = run_child("memory", str(tree.root))
    again = run_child("shift", str(tree.root))["seconds"]
    tree.restore()
    return Size(tree.inodes, **found, again=again)


def time_commands(
    commands: dict[str, list[str]], rounds: int, say: Say
) -> dict[str, Spread]:
    """Time short commands, in turns, after one run that does not count."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        say(f"command line, round {number} of {rounds}")
        for name, argv in commands.items():
            start = time.perf_counter()
            subprocess.run(
                argv, check=True, stdout=subprocess.DEVNULL, timeout=60
            )
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: Spread.of(values) for name, values in times.items()}
