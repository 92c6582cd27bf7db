# SPDX-License-Identifier: Apache-2.0
"""Leases: what one more takes, beside as many as a host may hold."""

import multiprocessing
import os
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from uuid import NAMESPACE_DNS, UUID, uuid5

from benchmarks.measure import LONGEST, clock, take_turns
from benchmarks.scratch import Scratch
from benchmarks.tables import Cell, cell, timed
from lxc_userns.idmap import KINDS
from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases import Lease
from lxc_userns.leases.allocation import FreeRanges, choose
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.leases.pool import Pools, read_pools
from lxc_userns.linux import directory
from lxc_userns.linux.processes import in_other_user_namespaces
from lxc_userns.ports import Ports
from tests.functional import lease_host
from tests.functional.command_line import CommandLine
from tests.functional.lease_host import WHOLE
from tests.waiting import wait_for

_NAME = "bench"
# Above what systemd gives to anybody; only counted with, never used.
_FIRST = 1 << 31
# Processes that are started, and more that have a user namespace each; and how
# often an acquire has its turn before they change.
_NEIGHBOURS, _TURNS = ((0, 0), (300, 0), (1000, 0), (0, 100), (0, 300)), 12
# Processes that acquire at once, and how many leases they do together.
_CROWDS, _LEASES = (1, 2, 4, 8), 80


Taker = Callable[[], float]


def make_allocator(path: Path, places: int) -> LeaseAllocator:
    """Make an allocator with a pool of so many leases, and no others.

    :param path: directory of its database; made if it is not there.
    """
    cli = CommandLine(path / "conf", path / "state", path / "run")
    if not path.exists():
        path.mkdir(parents=True)
        lease_host.configure(cli, size=WHOLE)
    ids = IdSet((range(_FIRST, _FIRST + places * WHOLE),))

    def read(owner: str) -> Pools:
        # Of the host all is read, and then the pool is another.
        pools = read_pools(owner)
        uid, gid = (replace(pool, ids=ids) for _, pool in pools)
        return replace(pools, uid=uid, gid=gid)

    services = cli.services()
    services.ports = Ports(read_pools=read)
    return services.allocator


def fill(allocator: LeaseAllocator, held: int) -> LeaseAllocator:
    """Add leases, from the first of its pool on."""
    with allocator.leases.write() as leases:
        for number in range(held):
            start = _FIRST + number * WHOLE
            leases.add(_lease(f"instance-{number}", start))
    return allocator


def _lease(name: str, start: int) -> Lease:
    ids = {"uid_start": start, "gid_start": start, "count": WHOLE}
    now = int(time.time())
    return Lease(instance=name, uuid=str(UUID(int=start)), acquired=now, **ids)


def acquire(allocator: LeaseAllocator, name: str = _NAME) -> None:
    """Acquire a lease as for a new instance of a compute service."""
    allocator.acquire(name, str(uuid5(NAMESPACE_DNS, name)))


def remove(allocator: LeaseAllocator, prefix: str = _NAME) -> None:
    """Take the leases of all instances back whose names begin so."""
    with allocator.leases.write() as leases:
        for lease in leases.all():
            if lease.instance.startswith(prefix):
                leases.remove(lease)


def _undone(call: Callable[[], object], undo: Callable[[], object]) -> Taker:
    return lambda: (clock(call), undo())[0]


def make_takers(path: Path, held: int, turns: int) -> dict[str, Taker]:
    """Make what takes turns beside so many leases, and as many files.

    :param turns: how many of each kind there will be.
    """
    # A range that never was leased comes first, and is gone then.
    roomy = fill(make_allocator(path / "roomy", held + 2 * turns), held)
    # The one range that is left was released.
    full = fill(make_allocator(path / "full", held + 1), held + 1)
    full.release(f"instance-{held // 2}")
    ids = roomy.pool.read("").uid.ids
    (path / "files").mkdir()
    for number in range(held):
        (path / f"files/held-{number}").write_bytes(bytes(4096))

    def write() -> None:
        with directory.opened(path / "files") as parent:
            directory.replace_file(parent, "final", "-" * 4096)

    def add() -> None:
        """Find a range and lease it; nothing but the database is asked."""
        with roomy.leases.write() as leases:
            used = [leases.used(kind) for kind in KINDS]
            free = [FreeRanges(ids, ids - some) for some in used]
            leases.add(_lease(_NAME, choose(free, WHOLE)[0] or 0))

    def check() -> None:
        for each in (roomy, full):
            with each.leases.read() as leases:
                if (left := len(leases.all())) != held:
                    raise RuntimeError(f"{left} leases are left of {held}")

    # The last three need each other.
    return {
        "a file of 4 KiB": _undone(write, (path / "files/final").unlink),
        "database alone": _undone(add, partial(remove, roomy)),
        "acquire, released range": _undone(
            partial(acquire, full), partial(full.release, _NAME)
        ),
        "acquire": partial(clock, acquire, roomy),
        "acquire again": partial(clock, acquire, roomy),
        "release": _undone(partial(roomy.release, _NAME), check),
    }


def measure(scratch: Scratch, asked: Namespace) -> Iterator[Cell]:
    """Measure one more lease, beside others and beside processes."""
    path, rounds = scratch.closed / "leases", asked.rounds
    yield from _measure_held(path, asked.held, asked.lease_rounds)
    yield from _measure_neighbours(path / "beside", max(asked.held), rounds)
    yield from _measure_crowds(path / "crowds", max(asked.held), rounds)


def _measure_held(
    path: Path, numbers: Sequence[int], turns: int
) -> Iterator[Cell]:
    """Acquire so often beside each number of leases, by turns."""
    made = {n: make_takers(path / str(n), n, turns + 1) for n in numbers}
    # One thing after the other, with all numbers each.
    order = [(name, held) for name in made[numbers[0]] for held in made]
    takers = {f"{name}/{held}": made[held][name] for name, held in order}
    found = take_turns(takers, turns, "leases", warm_up=True)
    for each, seconds in found.items():
        yield cell("leases", *each.split("/"), values=seconds, by=1000)


def _measure_neighbours(path: Path, held: int, rounds: int) -> Iterator[Cell]:
    """Acquire beside processes that only sleep."""
    turns = rounds * len(_NEIGHBOURS) * (_TURNS + 1)
    made = fill(make_allocator(path, held + turns), held)
    take_one = _undone(partial(acquire, made), partial(made.release, _NAME))

    def take(plain: int, namespaces: int) -> tuple[str, list[float]]:
        with _running(plain, namespaces):
            count = sum(map(str.isdecimal, os.listdir("/proc")))
            row = f"{count} ({_namespaces()})"
            found = take_turns({row: take_one}, _TURNS, row, warm_up=True)
            return row, found[row]

    takers = {str(each): partial(take, *each) for each in _NEIGHBOURS}
    found = take_turns(takers, rounds, "leases beside others")
    for runs in found.values():
        # A process more or less in a later round does not matter.
        rows, times = zip(*runs, strict=True)
        yield from timed("neighbours", {rows[0]: [*chain(*times)]})


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
        wait_for(lambda: _namespaces() >= wanted)
        yield


def _namespaces() -> int:
    return sum(1 for _ in in_other_user_namespaces())


def _measure_crowds(path: Path, held: int, rounds: int) -> Iterator[Cell]:
    """Have leases acquired by one process and by several, by turns."""
    places = held + _LEASES * rounds * len(_CROWDS)
    made = fill(make_allocator(path, places), held)
    # Not forked: what the parent holds open or locked is not theirs.
    context = multiprocessing.get_context("spawn")

    def take(number: int) -> tuple[float, list[float]]:
        with ProcessPoolExecutor(number, context) as pool:
            # All are there by then, and each has one share.
            start = time.perf_counter() + 2 + number
            work = partial(_acquire, path, places, start, _LEASES // number)
            waits, ends = zip(*pool.map(work, range(number)), strict=True)
        remove(made)
        return _LEASES / (max(ends) - start), [*chain(*waits)]

    takers = {str(each): partial(take, each) for each in _CROWDS}
    found = take_turns(takers, rounds, "leases at once")
    for row, runs in found.items():
        rates, waits = zip(*runs, strict=True)
        yield cell("crowds", row, "leases a second", values=rates)
        yield cell("crowds", row, "ms", values=chain(*waits), by=1000)


def _acquire(
    path: Path, places: int, start: float, count: int, number: int
) -> tuple[list[float], float]:
    """Return the seconds of each, and when they all were done."""
    made = make_allocator(path, places)
    # The clock is the same for all processes.
    time.sleep(max(0.0, start - time.perf_counter()))
    names = [f"{_NAME}-{number}-{each}" for each in range(count)]
    waits = [clock(acquire, made, name) for name in names]
    return waits, time.perf_counter()
