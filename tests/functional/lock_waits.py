# SPDX-License-Identifier: Apache-2.0
"""Waits for libvirtd while a lock of ours is held.

usage: python -m tests.functional.lock_waits DIRECTORY RUN_PATH SECONDS LOCK

Beside a libvirtd that it may restart. Holds the lock through a start, a reboot
from inside and a restart of libvirtd. Prints as JSON how many seconds at most
each call had to wait, and what became of the start. SECONDS is
``hook_timeout``.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from pathlib import Path

import libvirt

from lxc_userns.instances import failures
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import LeaseStore
from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.status import RunningDomains
from lxc_userns.linux import directory, locks
from tests.functional import guest, images
from tests.functional.command_line import CommandLine

NAME, URI = "web", "lxc:///"
Waits = dict[str, float]


class Host:
    """A host with one container that is stopped.

    :param place: where files of the container and our state are.
    :param run: the run path.
    :param seconds: ``hook_timeout``.
    """

    def __init__(self, place: Path, run: Path, seconds: str) -> None:
        #: The one that was restarted.
        self.libvirtd: subprocess.Popen[bytes] | None = None
        self.rootfs = place / "rootfs"
        images.make_busybox(self.rootfs)
        self.cli = CommandLine.make(
            place,
            run,
            f"hook_timeout = {seconds}\nrootfs_strategy = chown\n",
        )
        self.state = str(self.cli.state)
        self.call("host", "hook", "install")
        self.call("container", "run", NAME, "--rootfs", self.rootfs)
        self.call("lease", "gc")
        # So that there are leases to be locked.
        with LeaseStore(self.state).write():
            pass
        self.connection = libvirt.open(URI)
        self.domain.destroy()

    def call(self, *arguments: str | Path) -> None:
        """Call the program, which goes well."""
        done = self.cli(*arguments)
        assert done.code == 0, done

    @property
    def domain(self) -> libvirt.virDomain:
        """The container."""
        return self.connection.lookupByName(NAME)

    def locks(self) -> dict[str, AbstractContextManager[object]]:
        """Return all locks that a command may hold for long, and none."""
        store = InstanceStore(self.state)
        return {
            "none": nullcontext(),
            "instance": store.lock(NAME),
            "container": store.lock_container(NAME),
            "use": self.opened(lambda fd: store.lock_trees([fd])),
            "shift": self.opened(lambda fd: locks.held_for("tree", fd)),
            "leases": LeaseStore(self.state).write(),
            "database": self.exclusive(),
            "failures": self.counting(),
        }

    @contextmanager
    def opened(
        self, lock: Callable[[int], AbstractContextManager[object]]
    ) -> Iterator[None]:
        """Hold a lock of the root filesystem."""
        fd = os.open(self.rootfs, os.O_RDONLY)
        try:
            with lock(fd):
                yield
        finally:
            os.close(fd)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Hold the counts of failures."""
        with (
            directory.open_private(self.state, 0o700) as fd,
            locks.held(fd, failures._LOCK),
        ):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the database as SQLite does while it writes."""
        database = sqlite3.connect(LeaseStore(self.state).file)
        try:
            database.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            database.close()

    def look(self, lock: str) -> dict[str, object]:
        """Hold a lock through all that may happen to the container."""
        waits: Waits = {}
        with self.locks()[lock], polling(waits):
            said = self.start(waits)
        self.destroy()
        self.domain.create()
        with self.locks()[lock], polling(waits):
            self.reboot()
        self.destroy()
        self.domain.create()
        with self.locks()[lock]:
            waits["restart"] = self.restart()
        self.destroy()
        return {"said": said, "waits": waits}

    def start(self, waits: Waits) -> str:
        """Start it, and return what libvirt says to that."""
        begin = time.monotonic()
        try:
            self.domain.create()
            return "started"
        except libvirt.libvirtError as err:
            return str(err)
        finally:
            waits["start"] = time.monotonic() - begin

    def reboot(self) -> None:
        """Reboot it from inside, and wait for what becomes of it."""
        running = RunningDomains()
        before = running.find(NAME)
        assert before is not None
        with before.init_process() as init:
            guest.inside(int(init.pid), "reboot")
        # The hook may refuse it, and libvirt 9.0 may have hung up on it.
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = running.find(NAME)
            if found is not None and found.controller != before.controller:
                break
            time.sleep(0.05)

    def restart(self) -> float:
        """Restart libvirtd, and return after how many seconds it answers."""
        found = daemon.find()
        assert found is not None
        place = Path(f"/proc/{found.pid}")
        argv = place.joinpath("cmdline").read_text().split("\0")[:-1]
        environment = dict(
            each.split("=", 1)
            for each in place.joinpath("environ").read_text().split("\0")
            if each
        )
        os.kill(found.pid, signal.SIGTERM)
        if self.libvirtd is not None:
            self.libvirtd.wait(60)
        while place.exists():
            time.sleep(0.02)
        begin = time.monotonic()
        self.libvirtd = subprocess.Popen(
            argv,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                self.connection = libvirt.open(URI)
                self.connection.listAllDomains()
                self.domain.XMLDesc()
                return time.monotonic() - begin
            except libvirt.libvirtError:
                time.sleep(0.05)

    def destroy(self) -> None:
        """Destroy it, if it runs, and wait until its views are unmounted."""
        if self.domain.isActive():
            self.domain.destroy()
        deadline = time.monotonic() + 20
        while self.cli.mounts() and time.monotonic() < deadline:
            time.sleep(0.05)


@contextmanager
def polling(waits: Waits) -> Iterator[None]:
    """Ask libvirtd all the time, and note the longest waits."""
    stop = threading.Event()
    asked: dict[str, Callable[[libvirt.virConnect], object]] = {
        "version": lambda connection: connection.getLibVersion(),
        "list": lambda connection: [
            each.info() for each in connection.listAllDomains()
        ],
        "dumpxml": lambda connection: connection.lookupByName(NAME).XMLDesc(),
    }

    def poll(name: str, ask: Callable[[libvirt.virConnect], object]) -> None:
        connection = libvirt.open(URI)
        while not stop.is_set():
            begin = time.monotonic()
            ask(connection)
            wait = time.monotonic() - begin
            waits[name] = max(waits.get(name, 0.0), wait)
            time.sleep(0.05)
        connection.close()

    with ExitStack() as stack:
        for name, ask in asked.items():
            thread = threading.Thread(target=poll, args=(name, ask))
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        yield


def main(place: str, run: str, seconds: str, lock: str) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    json.dump(Host(Path(place), Path(run), seconds).look(lock), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
