# SPDX-License-Identifier: Apache-2.0
"""Leases under many processes, kill -9 at any moment, and power cuts."""

import fcntl
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases import Lease, LeaseStore
from tests.functional.conftest import FilesystemFactory

HERE = Path(__file__).parent
S = 65536
BASE = 2_000_000_000
#: FS_IOC_SHUTDOWN of ext4 and XFS, and to write nothing more, not even what
#: the journal has in memory: what a power cut leaves.
SHUTDOWN, NOTHING_MORE = 0x8004587D, (2).to_bytes(4, sys.byteorder)
#: What SQLite changes files by.
CHANGES = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "rename")


def lease(name: str, number: int) -> Lease:
    start = BASE + number * S
    return Lease(
        instance=name,
        uuid=None,
        uid_start=start,
        gid_start=start,
        count=S,
        acquired=0,
    )


def test_eight_processes_that_are_killed(tmp_path: Path) -> None:
    seed = str(random.randrange(2**32))  # noqa: S311 - no secret
    race = str(HERE / "lease_race.py")
    argv = [sys.executable, race, str(tmp_path), seed, "500", "8"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (seed, done.stdout, done.stderr)
    found = json.loads(done.stdout)
    assert found["kills"] > 20
    assert found["looks"] > found["kills"]
    # All that there are places for, and no more, which each was told.
    assert found["most"] == 20
    assert found["full acquire"] > 0
    for call in ("acquire", "release", "gc"):
        # Some were killed in the middle, and most were not.
        assert found[f"begin {call}"] > found[f"done {call}"] > 20
    assert sum(found[f"begin {c}"] for c in ("acquire", "release", "gc")) >= (
        500
    )


CROWD = """
import os, sys
from lxc_userns.leases import Lease, LeaseStore

def take(number):
    with LeaseStore(sys.argv[1]).write() as leases:
        used = leases.used("uid")
        start = used.ranges[-1].stop if used else 2000000000
        lease = Lease(
            instance=f"i{number}", uuid=None, uid_start=start,
            gid_start=start, count=65536, acquired=0,
        )
        leases.add(lease)

children = []
for number in range(200):
    pid = os.fork()
    if pid == 0:
        try:
            take(number)
            os._exit(0)
        except BaseException as err:
            print(err, file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


def test_two_hundred_processes_at_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", CROWD, state],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with LeaseStore(str(state)).read() as leases:
        found = leases.all()
        assert leases.used("uid") == IdSet((range(BASE, BASE + 200 * S),))
    assert [each.uid_start for each in found] == [
        BASE + number * S for number in range(200)
    ]
    assert len({each.instance for each in found}) == 200


INTRUDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    database.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as err:
    print(err)
"""


def test_a_thread_does_not_take_away_the_lock_of_another(
    tmp_path: Path,
) -> None:
    """By fcntl(2), any other close of a file would do so."""
    store = LeaseStore(str(tmp_path))
    with store.write() as leases:
        leases.add(lease("a", 0))
    file = str(tmp_path / "leases.sqlite3")
    with store.write() as leases:
        with store.read() as others:
            assert len(others.all()) == 1
        said = subprocess.check_output(
            [sys.executable, "-c", INTRUDER, file], text=True
        )
        assert said == "database is locked\n"


THREADS = """
import sys
from threading import Thread
from lxc_userns.leases import Lease, LeaseStore

def work(name):
    for number in range(20):
        with LeaseStore(sys.argv[1]).write() as leases:
            used = leases.used("uid")
            start = used.ranges[-1].stop if used else 2000000000
            lease = Lease(
                instance=f"{name}-{number}", uuid=None, uid_start=start,
                gid_start=start, count=9, acquired=0,
            )
            leases.add(lease)

threads = [Thread(target=work, args=(f"{sys.argv[2]}-{n}",)) for n in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""


def test_threads_of_several_processes(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", THREADS, str(tmp_path)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen([*argv, str(number)], stderr=subprocess.PIPE)
            )
            for number in range(4)
        ]
        for each in processes:
            _, said = each.communicate(timeout=120)
            assert (each.returncode, said) == (0, b"")
    with LeaseStore(str(tmp_path)).read() as leases:
        found = leases.all()
    assert [each.uid_start for each in found] == [
        BASE + number * 9 for number in range(4 * 4 * 20)
    ]


STEP = """
import sys
from dataclasses import replace
from lxc_userns.leases import Lease, LeaseStore, ShiftedTree

with LeaseStore(sys.argv[1]).write() as leases:
    old = leases.get("old")
    leases.note_tree(ShiftedTree("/srv/tree", "uid", old.ids("uid")))
    leases.remove(old)
    lease = Lease(
        instance="new", uuid=None, uid_start=2000065536,
        gid_start=2000065536, count=65536, acquired=0,
    )
    leases.add(lease)
    leases.restore(replace(leases.get("other"), unknown_since=77))
"""


def kill_at(change: str, number: int, state: Path) -> bool:
    """Kill a step right before one of its changes to files.

    :returns: whether there was that change.
    """
    argv = ["strace", "-f", "-qq", "-e", f"trace={change}"]
    argv += ["-e", f"inject={change}:signal=KILL:when={number}"]
    done = subprocess.run(
        [*argv, sys.executable, "-c", STEP, str(state)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, -9, 137), done
    return done.returncode != 0


Found = tuple[list[Lease], IdSet, list[range], int]


def describe(state: Path) -> Found:
    with LeaseStore(str(state)).read() as leases:
        return (
            leases.all(),
            leases.used("uid"),
            [*leases.released("gid")],
            len(leases.trees()),
        )


BEFORE: Found = (
    [lease("old", 0), lease("other", 9)],
    IdSet((range(BASE, BASE + S), range(BASE + 9 * S, BASE + 10 * S))),
    [],
    0,
)
AFTER: Found = (
    [
        lease("new", 1),
        Lease(
            instance="other",
            uuid=None,
            uid_start=BASE + 9 * S,
            gid_start=BASE + 9 * S,
            count=S,
            acquired=0,
            unknown_since=77,
        ),
    ],
    IdSet((range(BASE, BASE + 2 * S), range(BASE + 9 * S, BASE + 10 * S))),
    [range(BASE, BASE + S)],
    1,
)


def test_killed_before_each_change(tmp_path: Path) -> None:
    """A step is done or it is not, wherever it ends."""
    outcomes = []
    for change in CHANGES:
        for number in count(1):
            state = tmp_path / f"{change}-{number}"
            with LeaseStore(str(state)).write() as leases:
                for each in BEFORE[0]:
                    leases.add(each)
            assert describe(state) == BEFORE
            died = kill_at(change, number, state)
            found = describe(state)
            assert found in (BEFORE, AFTER)
            if not died:
                assert found == AFTER
                break
            outcomes.append(found == AFTER)
            if found == BEFORE:
                subprocess.run([sys.executable, "-c", STEP, state], check=True)
                assert describe(state) == AFTER
    # Before it was done, and between that and its end.
    assert outcomes.count(False) > 10
    assert outcomes.count(True) >= 1


@contextmanager
def power_cut(directory: Path, kind: str) -> Iterator[None]:
    """Lose what is not on the disk after the body."""
    yield
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, NOTHING_MORE)
    finally:
        os.close(fd)
    subprocess.run(["umount", directory], check=True, timeout=60)
    image = str(directory.with_suffix(".image"))
    argv = ["mount", "-t", kind, "-o", "loop", image, str(directory)]
    subprocess.run(argv, check=True, timeout=60)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut(
    kind: str,
    loop_filesystem: FilesystemFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = loop_filesystem(kind)
    store = LeaseStore(str(place / "state"))
    leases = [lease(f"i{number}", number) for number in range(5)]
    with power_cut(place, kind):
        for each in leases:
            with store.write() as table:
                table.add(each)
        (place / "unwritten").write_text("lost")
    assert not (place / "unwritten").exists()
    with store.read() as table:
        assert table.all() == leases
    with power_cut(place, kind), store.write() as table:
        table.remove(leases[0])
    with store.read() as table:
        assert table.all() == leases[1:]
        assert [*table.released("uid")] == [leases[0].ids("uid")]

    # That it would be lost if no one took care.
    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("= FULL", "= OFF"), *values)

    connect = partial(sqlite3.connect, factory=Careless)
    monkeypatch.setattr(sqlite3, "connect", connect)
    with power_cut(place, kind), store.write() as table:
        table.remove(leases[1])
    with store.read() as table:
        assert table.all() == leases[1:]
