# SPDX-License-Identifier: Apache-2.0
"""Processes that acquire leases from one database at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.leases.database import Database
from benchmarks.measure import LONGEST, Say
from lxc_userns.libvirtd.client import silence

#: How many processes there are, and how many leases they acquire together.
CROWDS, LEASES = (1, 2, 4, 8), 80
_PREFIX, _READY = "crowd-", 60.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """What came of so many processes.

    :param held: how many leases there were before.
    :param processes: how many processes.
    :param seconds: from the first call to the end of the last, for each
        round.
    :param waits: seconds of each call, of all processes and rounds.
    """

    held: int
    processes: int
    seconds: tuple[float, ...]
    waits: tuple[float, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Leases in a second, of all processes, for each round."""
        leases = len(self.waits) / len(self.seconds)
        return tuple(leases / seconds for seconds in self.seconds)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Crowd:
        """What :meth:`to_json` gave."""
        lists = ("seconds", "waits")
        return cls(**{**plain, **{key: tuple(plain[key]) for key in lists}})

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Share:
    """The calls of one process, on a clock that is the same for all."""

    begun: float
    waits: tuple[float, ...]
    ended: float


# Of a process that was started; it cannot be handed a barrier later.
_barrier: Barrier | None = None


def measure(path: Path, held: int, rounds: int, say: Say) -> list[Crowd]:
    """Have leases acquired by one process and by several, by turns.

    :param path: directory for the database.
    :param held: how many leases there are before.
    """
    place = path / "crowd"
    database = Database.made(place, held, LEASES * rounds * len(CROWDS))
    seconds: dict[int, list[float]] = {each: [] for each in CROWDS}
    waits: dict[int, list[float]] = {each: [] for each in CROWDS}
    for number in range(1, rounds + 1):
        for each in CROWDS:
            say(f"leases at once, round {number} of {rounds}: {each}")
            os.sync()
            shares = _run(place, each)
            database.remove(_PREFIX)
            begun = min(share.begun for share in shares)
            seconds[each].append(max(share.ended for share in shares) - begun)
            for share in shares:
                waits[each] += share.waits
    return [
        Crowd(held, each, tuple(seconds[each]), tuple(waits[each]))
        for each in CROWDS
    ]


def _run(path: Path, processes: int) -> list[_Share]:
    # Not forked: what the parent holds open or locked is not theirs.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with context.Pool(processes, _join, (barrier,)) as pool:
        work = partial(_acquire, path, LEASES // processes)
        return pool.map_async(work, range(processes), 1).get(LONGEST)


def _join(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier
    silence()


def _acquire(path: Path, count: int, number: int) -> _Share:
    database = Database(path)
    names = [f"{_PREFIX}{number}-{each}" for each in range(count)]
    assert _barrier is not None
    # So each process has one share, and none begins before all are there.
    _barrier.wait(_READY)
    begun = time.perf_counter()
    waits = tuple(
        database.clock(partial(database.allocator.acquire, name))
        for name in names
    )
    return _Share(begun, waits, time.perf_counter())
