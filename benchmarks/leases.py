# SPDX-License-Identifier: Apache-2.0
"""Leases: what one more takes, beside as many as a host may hold."""

import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import NAMESPACE_DNS, UUID, uuid5

from benchmarks.measure import LONGEST, Taker, Times, clock, say, take_turns
from benchmarks.tables import Cell, cell
from lxc_userns.idmap.idset import IdSet
from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import Lease, LeaseStore
from lxc_userns.leases.allocation import FreeRanges, choose
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.leases.host_pool import HostPool
from lxc_userns.leases.pool import Pools, make_pools
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import directory
from lxc_userns.linux.processes import in_other_user_namespaces
from lxc_userns.subid import owners
from lxc_userns.subid.files import parse

#: IDs of each lease.
SIZE = 65536
_NAME = _OWNER = "bench"
# Above what systemd gives to anybody; only counted with, never used.
_FIRST = 1 << 31
# Processes that are started, and more that have a user namespace each; and how
# often an acquire has its turn before they change.
_NEIGHBOURS, _TURNS = ((0, 0), (300, 0), (1000, 0), (0, 100), (0, 300)), 12
# Processes that acquire at once, and how many leases they do together.
_CROWDS, _LEASES = (1, 2, 4, 8), 80


class Database:
    """A database of leases, with a pool of which nothing else is leased.

    :param path: directory for it, and for what stands for ``/etc/subuid``.
    """

    def __init__(self, path: Path) -> None:
        self._subids = path / "subids"
        state = str(path / "state")
        files = partial(Filesystems, state, str(path / "run"))
        guests = Guests(is_silent=True)
        instances = Instances(InstanceStore(state), files, guests)
        self.store = LeaseStore(state)
        pool = HostPool(
            instances=instances,
            leases=self.store,
            owner=_OWNER,
            size=SIZE,
            read=self._read_pools,
        )
        self._allocator = LeaseAllocator(pool)

    @classmethod
    def made(cls, path: Path, held: int, room: int) -> "Database":
        """Make one that holds leases, and has room in its pool for more."""
        path.mkdir(parents=True)
        made = cls(path)
        made._subids.write_text(f"{_OWNER}:{_FIRST}:{(held + room) * SIZE}\n")
        with made.store.write() as leases:
            for start in range(_FIRST, _FIRST + held * SIZE, SIZE):
                leases.add(_lease(f"instance-{start:08x}", start))
        return made

    @property
    def held(self) -> int:
        """How many leases it holds."""
        with self.store.read() as leases:
            return len(leases.all())

    def acquire(self, name: str = _NAME) -> None:
        """Acquire a lease on a host that has this pool."""
        self._allocator.acquire(name, str(uuid5(NAMESPACE_DNS, name)))

    def _read_pools(self, owner: str) -> Pools:
        """Read who has which IDs of the host, and what stands for a file."""
        ranges, _ = parse(self._subids.read_text())
        reads = owners.read_host_uids, owners.read_host_gids
        users, groups = (
            replace(read(owner), subordinates=ranges) for read in reads
        )
        return make_pools(owner, users, groups)

    def add(self) -> None:
        """Find a range and lease it; nothing but the database is asked."""
        count = int(self._subids.read_text().split(":")[2])
        pool = IdSet((range(_FIRST, _FIRST + count),))
        with self.store.write() as leases:
            used = [leases.used(kind) for kind in ("uid", "gid")]
            free = [FreeRanges(pool, pool - some) for some in used]
            leases.add(_lease(_NAME, choose(free, SIZE)[0] or 0))

    def release(self, name: str = _NAME) -> None:
        """Release a lease, whose range is not the first choice any more."""
        self._allocator.release(name)

    def remove(self, prefix: str = _NAME) -> None:
        """Take the leases of all instances back whose names begin so."""
        with self.store.write() as leases:
            for lease in leases.all():
                if lease.instance.startswith(prefix):
                    leases.remove(lease)


def _lease(name: str, start: int) -> Lease:
    now = int(time.time())
    return Lease(
        instance=name,
        uuid=str(UUID(int=start)),
        uid_start=start,
        gid_start=start,
        count=SIZE,
        acquired=now,
    )


def make_takers(path: Path, held: int, turns: int) -> dict[str, Taker]:
    """Make what takes turns beside so many leases, and as many files.

    :param turns: how many of each kind there will be.
    """
    # A range that never was leased comes first, and is gone then.
    roomy = Database.made(path / "roomy", held, 2 * turns)
    # The one range that is left was released.
    full = Database.made(path / "full", held + 1, 0)
    full.release(f"instance-{_FIRST + held // 2 * SIZE:08x}")
    (path / "files").mkdir()
    for number in range(held):
        (path / f"files/held-{number}").write_bytes(bytes(4096))

    def check() -> None:
        if roomy.held != held or full.held != held:
            raise RuntimeError(f"{roomy.held} leases are left of {held}")

    def taker(call: Callable[[], object], undo: Callable[[], object]) -> Taker:
        return lambda: (clock(call), undo())[0]

    write = partial(_write_file, path / "files")
    # The last three need each other.
    return {
        "a file of 4 KiB": taker(write, (path / "files/final").unlink),
        "database alone": taker(roomy.add, roomy.remove),
        "acquire, released range": taker(full.acquire, full.release),
        "acquire": partial(clock, roomy.acquire),
        "acquire again": partial(clock, roomy.acquire),
        "release": taker(roomy.release, check),
    }


def _write_file(path: Path) -> None:
    """Write a file for good, as one for each lease would be."""
    with open(path / "new", "xb") as stream:
        stream.write(bytes(4096))
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path / "new", path / "final")
    with directory.opened(path) as parent:
        os.fsync(parent)


def measure(
    path: Path, numbers: Sequence[int], turns: int, rounds: int
) -> Iterator[Cell]:
    """Measure one more lease, beside others and beside processes.

    :param numbers: how many leases are held.
    :param turns: how often one is acquired beside each of these.
    :param rounds: the same beside others who run or acquire.
    """
    say("making databases")
    made = {n: make_takers(path / str(n), n, turns + 1) for n in numbers}
    for taker in (each for some in made.values() for each in some.values()):
        taker()
    # One thing after the other, with all numbers each.
    order = [(name, held) for name in made[numbers[0]] for held in made]
    takers = {f"{name}/{held}": made[held][name] for name, held in order}
    for name, seconds in take_turns(takers, turns, "leases").items():
        names = "leases", *name.split("/")
        yield cell(*names, values=seconds, by=1000)
    yield from _measure_neighbours(path / "beside", max(numbers), rounds)
    yield from _measure_crowds(path / "crowds", max(numbers), rounds)


def _measure_neighbours(path: Path, held: int, rounds: int) -> Iterator[Cell]:
    turns = rounds * len(_NEIGHBOURS) * (_TURNS + 1)
    database = Database.made(path, held, turns)

    def take() -> float:
        os.sync()
        seconds = clock(database.acquire)
        database.release()
        return seconds

    rows: dict[tuple[int, int], str] = {}
    found: Times = {}
    for number in range(1, rounds + 1):
        for each in _NEIGHBOURS:
            say(f"leases beside others, round {number} of {rounds}: {each}")
            with _running(*each):
                count = sum(map(str.isdecimal, os.listdir("/proc")))
                row = rows.setdefault(each, f"{count} ({_namespaces()})")
                # The first one does not count.
                times = [take() for _ in range(_TURNS + 1)][1:]
                found.setdefault(row, []).extend(times)
    for row, seconds in found.items():
        yield cell("neighbours", row, "ms", values=seconds, by=1000)


@contextmanager
def _running(plain: int, namespaces: int) -> Iterator[None]:
    sleep = ["sleep", f"{LONGEST:.0f}"]
    apart = ["unshare", "--user", "--map-root-user", *sleep]
    wanted = _namespaces() + namespaces
    with ExitStack() as stack:
        for argv in [sleep] * plain + [apart] * namespaces:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        while _namespaces() < wanted:
            time.sleep(0.05)
        yield


def _namespaces() -> int:
    return sum(1 for _ in in_other_user_namespaces())


def _measure_crowds(path: Path, held: int, rounds: int) -> Iterator[Cell]:
    """Have leases acquired by one process and by several, by turns."""
    database = Database.made(path, held, _LEASES * rounds * len(_CROWDS))
    # Not forked: what the parent holds open or locked is not theirs.
    context = multiprocessing.get_context("spawn")
    rates: Times = {str(each): [] for each in _CROWDS}
    waits: Times = {str(each): [] for each in _CROWDS}
    for number in (each for _ in range(rounds) for each in _CROWDS):
        say(f"leases at once: {number}")
        os.sync()
        with ProcessPoolExecutor(number, context) as pool:
            # All are there by then, and each has one share.
            start = time.perf_counter() + 2 + number
            work = partial(_acquire, path, start, _LEASES // number)
            shares = [*pool.map(work, range(number))]
        database.remove()
        waits[str(number)] += (wait for some, _ in shares for wait in some)
        ended = max(end for _, end in shares)
        rates[str(number)].append(_LEASES / (ended - start))
    for row in rates:
        yield cell("crowds", row, "leases a second", values=rates[row])
        yield cell("crowds", row, "ms", values=waits[row], by=1000)


def _acquire(
    path: Path, start: float, count: int, number: int
) -> tuple[list[float], float]:
    """Return the seconds of each, and when they all were done."""
    database = Database(path)
    # The clock is the same for all processes.
    time.sleep(max(0.0, start - time.perf_counter()))
    names = [f"{_NAME}-{number}-{each}" for each in range(count)]
    waits = [clock(database.acquire, name) for name in names]
    return waits, time.perf_counter()
