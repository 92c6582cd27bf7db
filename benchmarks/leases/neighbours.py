# SPDX-License-Identifier: Apache-2.0
"""An acquire while other processes run, of which each is looked at."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.leases.database import Database
from benchmarks.leases.holding import count_processes
from benchmarks.measure import LONGEST, Say
from lxc_userns.linux.process import in_other_user_namespaces

_SLEEP = ("sleep", str(int(LONGEST)))
_IN_NAMESPACE = ("unshare", "--user", "--map-root-user", *_SLEEP)
#: Processes that are started, and more that have a user namespace each.
NEIGHBOURS = ((0, 0), (300, 0), (1000, 0), (0, 100), (0, 300))
#: How often an acquire has its turn before they change.
_TURNS = 12
_NAME, _POLL = "bench", 0.05


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What came of the rounds beside so many processes.

    :param held: how many leases there were.
    :param processes: how many processes there were to look at.
    :param namespaces: how many of them were in user namespaces of their own.
    :param seconds: of each acquire.
    """

    held: int
    processes: int
    namespaces: int
    seconds: tuple[float, ...]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Neighbours:
        """What :meth:`to_json` gave."""
        return cls(**{**plain, "seconds": tuple(plain["seconds"])})

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self)


def measure(path: Path, held: int, rounds: int, say: Say) -> list[Neighbours]:
    """Acquire beside few and many processes, by turns.

    :param path: directory for the database.
    :param held: how many leases there are.
    """
    turns = rounds * len(NEIGHBOURS) * (_TURNS + 1)
    database = Database.made(path / "neighbours", held, turns)
    there: dict[tuple[int, int], tuple[int, int]] = {}
    seconds: dict[tuple[int, int], list[float]] = {}
    for number in range(1, rounds + 1):
        for each in NEIGHBOURS:
            say(f"leases beside others, round {number} of {rounds}: {each}")
            with _running(*each):
                there[each] = count_processes(), _count_namespaces()
                seconds.setdefault(each, []).extend(_take_turns(database))
    return [
        Neighbours(held, *there[each], tuple(seconds[each]))
        for each in NEIGHBOURS
    ]


def _take_turns(database: Database) -> Iterator[float]:
    # The first one does not count.
    for number in range(_TURNS + 1):
        os.sync()
        seconds = database.clock(partial(database.allocator.acquire, _NAME))
        database.allocator.release(_NAME)
        if number:
            yield seconds


@contextmanager
def _running(plain: int, namespaces: int) -> Iterator[None]:
    wanted = _count_namespaces() + namespaces
    with ExitStack() as stack:
        for argv in [_SLEEP] * plain + [_IN_NAMESPACE] * namespaces:
            stack.enter_context(_started(argv))
        deadline = time.monotonic() + LONGEST
        while _count_namespaces() < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {namespaces} user namespaces")
            time.sleep(_POLL)
        yield


@contextmanager
def _started(argv: Sequence[str]) -> Iterator[None]:
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _count_namespaces() -> int:
    return sum(1 for _ in in_other_user_namespaces())
