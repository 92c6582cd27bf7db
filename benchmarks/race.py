# SPDX-License-Identifier: Apache-2.0
"""All contenders on the same tree, by turns, at several sizes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.contenders import Contender, Runner, check_shifted, child
from benchmarks.measure import LONGEST, Column, Result, Say, take_turns
from benchmarks.scratch import Scratch
from benchmarks.trees import Tree


@dataclass(frozen=True, slots=True)
class Race:
    """What came of the rounds at one size.

    :param inodes: inodes of the tree.
    :param results: one for each contender, of the first first.
    """

    inodes: int
    results: tuple[Result, ...]

    @property
    def column(self) -> Column:
        """Its column in a table."""
        return self.inodes, self.results

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Race:
        """What :meth:`to_json` gave."""
        results = map(Result.from_json, plain["results"])
        return cls(plain["inodes"], tuple(results))

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        results = [each.to_json() for each in self.results]
        return {"inodes": self.inodes, "results": results}


@dataclass(frozen=True, slots=True)
class Lane:
    """A contender that is ready to take turns."""

    contender: Contender
    runner: Runner

    def take(self, tree: Tree, *, check: bool = False) -> float:
        """Take one.

        :param check: whether to look at what it did.
        """
        with self.runner.turn(tree) as turn:
            if check:
                check_shifted(tree, turn.shown)
        if not self.contender.is_view:
            tree.restore()
        return turn.seconds


@contextmanager
def lanes(
    contenders: Sequence[Contender], scratch: Scratch
) -> Iterator[list[Lane]]:
    """Make contenders ready; they stay so for all sizes."""
    with ExitStack() as stack:
        yield [
            Lane(each, stack.enter_context(each.started(scratch)))
            for each in contenders
        ]


def check(tree: Tree, ready: Sequence[Lane], say: Say) -> None:
    """Let each take a turn that does not count, and look at what it did."""
    for lane in ready:
        say(f"checking: {lane.contender.name}")
        lane.take(tree, check=True)


def run(tree: Tree, ready: Sequence[Lane], rounds: int, say: Say) -> Race:
    """Let all take their turns.

    :param ready: the first is what the others are compared with.
    """
    takers = {lane.contender.name: partial(lane.take, tree) for lane in ready}
    results = take_turns(takers, rounds, f"{tree.inodes} inodes", say)
    return Race(tree.inodes, tuple(results))


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
    done = subprocess.run(
        child("memory", str(tree.root)),
        check=True,
        stdout=subprocess.PIPE,
        timeout=LONGEST,
    )
    tree.restore()
    return Size(tree.inodes, **json.loads(done.stdout))
