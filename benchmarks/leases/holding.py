# SPDX-License-Identifier: Apache-2.0
"""What is done with one lease, by how many others are held."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.leases.database import SIZE, Database
from benchmarks.measure import (
    Column,
    Result,
    Say,
    Taker,
    clock,
    compare,
    take_turns,
)
from lxc_userns.idmap import KINDS
from lxc_userns.leases import Lease
from lxc_userns.leases.allocation import FreeRanges, choose
from lxc_userns.linux import directory

#: What is measured, in this order; the last three need each other.
FILE = "a file of 4 KiB"
DATABASE = "database alone"
REUSE = "acquire, released range"
ACQUIRE = "acquire"
AGAIN = "acquire again"
RELEASE = "release"
OPERATIONS = (FILE, DATABASE, REUSE, ACQUIRE, AGAIN, RELEASE)
_BLOCK = bytes(4096)
_NAME, _UUID = "bench", "7c1f7a5e-3b52-4a55-9f1d-0c6a2f6f3b10"


@dataclass(frozen=True, slots=True)
class Holding:
    """What came of the rounds with one number of leases.

    :param held: how many there are.
    :param processes: how many processes there were to look at.
    :param results: one for each thing that is done, of the file first.
    """

    held: int
    processes: int
    results: tuple[Result, ...]

    @property
    def column(self) -> Column:
        """Its column in a table."""
        return self.held, self.results

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Holding:
        """What :meth:`to_json` gave."""
        results = map(Result.from_json, plain["results"])
        return cls(plain["held"], plain["processes"], tuple(results))

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        results = [each.to_json() for each in self.results]
        return {
            "held": self.held,
            "processes": self.processes,
            "results": results,
        }


class Shelf:
    """Databases that hold so many leases, and a directory of as many files.

    :param path: directory for all of them, which is made.
    :param held: how many.
    :param turns: how many turns of each kind there will be.
    """

    def __init__(self, path: Path, held: int, turns: int) -> None:
        path.mkdir()
        self.held = held
        # A range that never was leased comes first, and is gone then.
        self._roomy = Database.made(path / "roomy", held, 2 * turns)
        self._exhausted = Database.exhausted(path / "exhausted", held)
        self._files = path / "files"
        self._files.mkdir()
        for number in range(held):
            (self._files / f"held-{number}").write_bytes(_BLOCK)

    @property
    def takers(self) -> dict[str, Taker]:
        """All that is done, by name."""
        return {
            FILE: self.write_file,
            DATABASE: self.change_database,
            REUSE: self.acquire_released,
            ACQUIRE: self.acquire,
            AGAIN: self.acquire,
            RELEASE: self.release,
        }

    def write_file(self) -> float:
        """Write a file for good, as one for each lease would be."""
        seconds = clock(partial(_write_file, self._files))
        (self._files / "final").unlink()
        return seconds

    def change_database(self) -> float:
        """Find a range and lease it; nothing but the database is asked."""
        database = self._roomy
        seconds = clock(partial(_add, database))
        with database.store.write() as leases:
            lease = leases.get(_NAME)
            assert lease is not None
            leases.remove(lease)
        return seconds

    def acquire_released(self) -> float:
        """Acquire the only range that is left, and release it."""
        allocator = self._exhausted.allocator
        seconds = self._exhausted.clock(
            partial(allocator.acquire, _NAME, _UUID)
        )
        allocator.release(_NAME)
        return seconds

    def acquire(self) -> float:
        """Acquire a lease, or the one that is there."""
        acquire = partial(self._roomy.allocator.acquire, _NAME, _UUID)
        return self._roomy.clock(acquire)

    def release(self) -> float:
        """Release it."""
        return clock(partial(self._roomy.allocator.release, _NAME))

    def check(self) -> None:
        """Make sure that there are as many leases as there were.

        :raises RuntimeError: if there are not.
        """
        for database in (self._roomy, self._exhausted):
            if database.held != self.held:
                raise RuntimeError(
                    f"{database.held} leases are left of {self.held}"
                )


def _write_file(path: Path) -> None:
    with directory.opened(path) as parent:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open("new", flags, 0o600, dir_fd=parent)
        try:
            os.write(fd, _BLOCK)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename("new", "final", src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)


def _add(database: Database) -> None:
    pool = database.pool
    with database.store.write() as leases:
        supplies = [
            FreeRanges(pool, pool - leases.used(kind)) for kind in KINDS
        ]
        uid, gid = choose(supplies, SIZE)
        assert uid is not None
        assert gid is not None
        now = int(time.time())
        leases.add(Lease(_NAME, _UUID, uid, gid, SIZE, now))


def count_processes() -> int:
    """How many processes there are."""
    return sum(name.isdecimal() for name in os.listdir("/proc"))


def measure(
    path: Path, numbers: Sequence[int], rounds: int, say: Say
) -> list[Holding]:
    """Let all take their turns, with all numbers of leases in each round.

    :param path: directory for the databases.
    :param numbers: how many leases are held.
    """
    shelves = []
    for held in numbers:
        say(f"making databases of {held} leases")
        shelves.append(Shelf(path / str(held), held, rounds + 1))
    for shelf in shelves:
        for taker in shelf.takers.values():
            taker()
        shelf.check()
    processes = count_processes()
    # One thing after the other, with all numbers each.
    takers = {
        f"{name}, {shelf.held} held": shelf.takers[name]
        for name in OPERATIONS
        for shelf in shelves
    }
    found = take_turns(takers, rounds, "leases", say)
    for shelf in shelves:
        shelf.check()
    return [
        Holding(shelf.held, processes, _named(found[place :: len(shelves)]))
        for place, shelf in enumerate(shelves)
    ]


def _named(found: Sequence[Result]) -> tuple[Result, ...]:
    """With the names of what is done, and ratios to the first of these."""
    times = {
        name: each.seconds
        for name, each in zip(OPERATIONS, found, strict=True)
    }
    return tuple(compare(times, found[0].seconds))
