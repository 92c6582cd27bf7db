# SPDX-License-Identifier: Apache-2.0
"""Processes that lease, release and collect at random, and are killed.

usage: lease_race.py STATE_DIRECTORY SEED CALLS PROCESSES

A program of its own: workers are forked, which a process with threads must
not do. What each worker does it writes down before and after, so that what
it was told can be compared with what there is, however it ends. Prints what
was done as JSON; exit code 1 if anything was not as it has to be.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import cast

from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import PoolExhaustedError
from lxc_userns.leases import Lease, gc
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.services import Services
from lxc_userns.subid import owners

BASE, SIZE, PLACES = 2_000_000_000, 1000, 20
#: More than there are places for.
NAMES_EACH = 6
#: Milliseconds between two kills.
BETWEEN_KILLS = (2, 40)


class FakeGuests:
    """Domains are files, so that all processes see the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def list(self) -> list[Guest]:
        names = os.listdir(self._directory)
        return [Guest(name, "no-uuid", "running", 1) for name in names]

    def find(self, name: str) -> Guest | None:
        return None


class Worker:
    """One that has names of its own, and takes up where it was killed."""

    def __init__(self, race: "Race", number: int) -> None:
        self._race = race
        self._names = [f"w{number}-{each}" for each in range(NAMES_EACH)]
        self._log = race.directory / f"log-{number}"

    def history(self) -> list[list[str]]:
        """Return begun and done calls, in their order."""
        text = self._log.read_text() if self._log.exists() else ""
        return [line.split() for line in text.splitlines()]

    def told(self) -> dict[str, str | None]:
        """Return what it was told of each of its leases that is not in doubt.

        A lease without a domain is in doubt, for others collect those.
        """
        found: dict[str, str | None] = dict.fromkeys(self._names)
        for step, call, name, value in self.history():
            if call == "gc":
                continue
            found.pop(name, None)
            if step == "done" and call == "release":
                found[name] = None
            if step == "done" and self._race.domain(name).exists():
                found[name] = value if call == "acquire" else None
        return found

    def run(self, seed: int) -> None:
        """Make calls until there are enough of all."""
        chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        while self._race.calls() < self._race.wanted:
            name = chance.choice(self._names)
            call = chance.choice(["acquire", "acquire", "release", "gc"])
            getattr(self, f"_{call}")(name, chance)

    def _acquire(self, name: str, chance: random.Random) -> None:
        before = self.told().get(name)
        self._write("begin", "acquire", name, "-")
        if chance.random() < 0.7:
            self._race.domain(name).touch()
        try:
            lease = self._race.services.allocator.acquire(name)
        except PoolExhaustedError:
            self._write("full", "acquire", name, "-")
            return
        self._write("done", "acquire", name, show(lease))
        if before is not None and before != show(lease):
            raise AssertionError(f"{name} had {before}, has {show(lease)}")

    def _release(self, name: str, _chance: random.Random) -> None:
        self._write("begin", "release", name, "-")
        self._race.domain(name).unlink(missing_ok=True)
        self._race.manager.release(name)
        self._write("done", "release", name, "-")

    def _gc(self, _name: str, _chance: random.Random) -> None:
        self._write("begin", "gc", "-", "-")
        found = gc.collect_garbage(self._race.services, 0)
        self._write("done", "gc", "-", str(len(found)))

    def _write(self, *words: str) -> None:
        with self._log.open("a") as stream:
            stream.write(" ".join(words) + "\n")


class Race:
    """All workers, and who kills them."""

    def __init__(self, directory: Path, wanted: int, processes: int) -> None:
        self.directory = directory
        self.wanted = wanted
        self._domains = directory / "domains"
        self._domains.mkdir()
        conf = cfg.ConfigOpts()
        register_opts(conf)
        conf([], default_config_files=[], default_config_dirs=[])
        for name, value in (
            ("state_path", str(directory / "state")),
            ("run_path", str(directory / "run")),
            ("subid_owner", "lxc-userns"),
            ("range_size", SIZE),
        ):
            conf.set_override(name, value, "lxc_userns")
        self._conf = conf
        self._guests = cast(Guests, FakeGuests(self._domains))
        self.manager = UserNamespaceManager(conf, self._guests)
        self.workers = [Worker(self, each) for each in range(processes)]

    @property
    def services(self) -> Services:
        """Services for one call."""
        return Services(Settings.from_conf(self._conf), self._guests)

    def domain(self, name: str) -> Path:
        return self._domains / name

    def calls(self) -> int:
        """Number of calls that were begun."""
        return sum(
            line[0] == "begin"
            for worker in self.workers
            for line in worker.history()
        )

    def run(self, seed: int) -> dict[str, int]:
        """Let them run, kill one now and then, and look all the time."""
        chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        pids = {self._start(worker, chance): worker for worker in self.workers}
        done = Counter(looks=0, kills=0, most=0)
        while pids:
            time.sleep(chance.uniform(*BETWEEN_KILLS) / 1000)
            done["most"] = max(done["most"], len(self._look()))
            done["looks"] += 1
            if self.calls() < self.wanted:
                os.kill(chance.choice([*pids]), signal.SIGKILL)
            for pid, status in ended(pids):
                worker = pids.pop(pid)
                if os.WIFSIGNALED(status):
                    done["kills"] += 1
                    pids[self._start(worker, chance)] = worker
                elif status:
                    raise AssertionError("a worker has failed")
        self._look_at_the_end()
        for worker in self.workers:
            for step, call, *_ in worker.history():
                done[f"{step} {call}"] += 1
        return dict(done)

    def _start(self, worker: Worker, chance: random.Random) -> int:
        seed = chance.randrange(2**32)
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            worker.run(seed)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _look(self) -> dict[str, Lease]:
        """Read the leases; no two share an ID, none is outside."""
        with self.services.allocator.leases.read() as leases:
            found = leases.all()
        for kind in ("uid", "gid"):
            starts = sorted(each.ids(kind).start for each in found)
            for one, other in pairwise(starts):
                assert one + SIZE <= other, (one, other)
            for start in starts:
                place, rest = divmod(start - BASE, SIZE)
                assert 0 <= place < PLACES, start
                assert rest == 0, start
        return {each.instance: each for each in found}

    def _look_at_the_end(self) -> None:
        """Compare what each was told last with what there is."""
        found = self._look()
        for worker in self.workers:
            for name, value in worker.told().items():
                lease = found.get(name)
                assert value == (lease and show(lease)), (name, value, lease)


def ended(pids: Iterable[int]) -> list[tuple[int, int]]:
    found = [os.waitpid(pid, os.WNOHANG) for pid in pids]
    return [(pid, status) for pid, status in found if pid]


def show(lease: Lease) -> str:
    return f"{lease.uid_start}/{lease.gid_start}/{lease.count}"


def main(directory: str, seed: str, calls: str, processes: str) -> None:
    place = Path(directory)
    subordinates = place / "subordinates"
    subordinates.write_text(f"lxc-userns:{BASE}:{SIZE * PLACES}\n")
    owners.SUBUID = owners.SUBGID = subordinates
    done = Race(place, int(calls), int(processes)).run(int(seed))
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
