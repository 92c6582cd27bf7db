# SPDX-License-Identifier: Apache-2.0
"""Service whose threads are green, those of eventlet.

usage: python -m tests.functional.green_threads

Beside a libvirtd. Takes an instance of each kind through its life, each verb
called by several threads at once; then calls verbs while another process has
the lock that they wait for. Writes as JSON the states of each life, and for
each lock how often a thread that waits for nothing has run meanwhile.
"""

# As a service has it: before all else.
import eventlet

eventlet.monkey_patch()

# ruff: noqa: E402
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import libvirt

from lxc_userns import rootfs
from lxc_userns.linux import namespaces
from tests.functional import images, instance_host
from tests.functional.conftest import reachable_directory
from tests.functional.instance_host import NAME, InstanceHost

#: How many threads call each verb.
_CALLERS = 4
#: Seconds for which another process has a lock.
_SECONDS = 1.0
_HOLDER = """
import fcntl, os, sys, time
flags = os.O_RDONLY if os.path.isdir(sys.argv[1]) else os.O_RDWR | os.O_CREAT
fd = os.open(sys.argv[1], flags, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print(flush=True)
time.sleep(float(sys.argv[2]))
"""


def at_once(verb: Callable[[], object]) -> None:
    """Call a verb by several threads, all of which it goes well for."""
    pool = eventlet.GreenPool()
    for each in [pool.spawn(verb) for _ in range(_CALLERS)]:
        each.wait()


def live(host: InstanceHost, kind: str) -> list[str]:
    """Take an instance through its life, and return its states."""
    closed = host.rootfs.parent
    source = closed / "root.tar" if kind == "archive" else host.rootfs
    strategy = "chown" if kind == "chown" else "auto"
    request = host.request(rootfs=str(source), strategy=strategy)
    manager, states = host.manager, []

    def start() -> None:
        host.define(manager.prepare(NAME))
        host.start()
        at_once(lambda: manager.verify(NAME, started=True))

    steps: tuple[Callable[[], object], ...] = (
        lambda: at_once(lambda: manager.allocate(request)),
        lambda: at_once(lambda: manager.prepare(request)),
        start,
        lambda: at_once(lambda: manager.verify(NAME, started=False)),
        host.stop,
        lambda: at_once(lambda: manager.sync(NAME)),
        lambda: at_once(lambda: manager.unmount(NAME)),
        lambda: at_once(lambda: manager.release(NAME)),
    )
    for step in steps:
        step()
        states.append(host.state())
    host.undefine()
    return states


@contextmanager
def ticking() -> Iterator[list[float]]:
    """Let a thread note the time again and again."""
    times: list[float] = []

    def tick() -> None:
        while True:
            times.append(time.monotonic())
            time.sleep(0.01)

    thread = eventlet.spawn(tick)
    try:
        yield times
    finally:
        thread.kill()


def count_ticks(path: str, verb: Callable[[], object]) -> int:
    """Call a verb while another process has a lock, and count the ticks."""
    argv = [sys.executable, "-c", _HOLDER, path, str(_SECONDS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with ticking() as times:
            verb()
    return len(times)


def main() -> None:
    """Do all of it."""
    assert not namespaces.has_native_threads()
    libvirt.registerErrorHandler(lambda *_: None, None)
    found: dict[str, object] = {}
    with (
        reachable_directory() as path,
        instance_host.made(path, libvirt.open("lxc:///")) as host,
    ):
        images.make_busybox(host.rootfs)
        archive = str(host.rootfs.parent / "root.tar")
        argv = ["tar", "-C", str(host.rootfs), "-cf", archive, "."]
        subprocess.run(argv, check=True)
        for kind in ("idmapped", "archive", "chown"):
            found[kind] = live(host, kind)
        # The only range of the pool is not free while it is on disk.
        rootfs.unshift(host.rootfs)
        state = host.conf.lxc_userns.state_path
        os.makedirs(f"{state}/locks", mode=0o700, exist_ok=True)
        manager = host.manager
        found["instance"] = count_ticks(
            f"{state}/locks/instance-{NAME}", lambda: manager.release(NAME)
        )
        found["leases"] = count_ticks(
            state, lambda: manager.allocate(host.request())
        )
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
