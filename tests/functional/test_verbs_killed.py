# SPDX-License-Identifier: Apache-2.0
"""Kill -9 a verb before each of its changes, and call it again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns import InstanceRequest, Requirements, Volume
from lxc_userns.exceptions import (
    IsolationError,
    NotRunningError,
    RunningError,
)
from lxc_userns.instances.verified import Verified
from tests.functional import images, instance_host
from tests.functional.guest import wait_for_no_disk
from tests.functional.instance_host import NAME, InstanceHost
from tests.functional.rootfs.kill import CHANGES, STATEMENT, run_and_kill

pytestmark = pytest.mark.needs("private-libvirtd", "containers")

_EVENTS = CHANGES | {
    "os.fork",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "sqlite3.connect",
    "subprocess.Popen",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
#: Locks of trees; that of an instance stands for all.
_PASSING = ("/proc/", "rootfs-", "tree-", "image-")
_CALLS = {"mount", "renameat2", "syncfs", "umount2"}
_MOVE_MOUNT = 429
#: A start of the instance, long ago.
VERIFIED = Verified(1_700_000_000, "boot", 4321, 99)


def is_change(event: str, arguments: tuple[object, ...]) -> bool:
    """Tell whether an event is of a call that changes anything."""
    if event == "open":
        path, mode, flags = arguments
        # Opened once more, or nothing that lasts.
        is_new = mode is None and not str(path).startswith(_PASSING)
        return is_new and bool(int(str(flags)) & _WRITES)
    if event == "os.remove":
        return not str(arguments[0]).startswith(_PASSING)
    if event == "lxc_userns.libc":
        name, values = arguments
        assert isinstance(values, tuple)
        return name in _CALLS or values[:1] == (_MOVE_MOUNT,)
    if event == STATEMENT:
        # All of a transaction is undone until then, with what else was done
        # in its course: test_leases_durable.py has the statements.
        return arguments == ("COMMIT",)
    return event in _EVENTS


@pytest.fixture
def host(
    libvirt_connection: libvirt.virConnect, reachable_path: Path
) -> Iterator[InstanceHost]:
    """A host with a small tree, an image and an archive of it."""
    with instance_host.made(reachable_path, libvirt_connection) as found:
        found.conf.set_override("userns_policy", "preferred", "lxc_userns")
        make_files(found)
        # What is made once for all instances is there.
        found.manager.prepare(found.request())
        found.manager.release(NAME)
        yield found


def make_files(host: InstanceHost) -> None:
    make_tree(host.rootfs)
    closed = host.rootfs.parent
    make_tree(closed / "shifted")
    images.make_image("ext4", closed / "disk.img", 8, root=host.rootfs)
    images.make_image("ext4", closed / "volume.img", 8)
    archive = closed / "root.tar"
    argv = ["tar", "-C", str(host.rootfs), "-cf", str(archive), "."]
    subprocess.run(argv, check=True)


def make_tree(path: Path) -> None:
    """Make a tree with what a shift has to take care of."""
    for name in ("dev", "proc", "sys", "sbin", "home", "etc"):
        (path / name).mkdir(parents=True, mode=0o755)
    # Each container with files of its own gets others in their place.
    for name in ("hostname", "machine-id"):
        (path / "etc" / name).write_text("image\n")
    init = path / "sbin/init"
    init.write_text("#!/bin/sh\n")
    os.chown(path / "home", 1000, 1000)
    init.chmod(0o4755)


def ask(host: InstanceHost, kind: str, **changes: Any) -> InstanceRequest:
    """Ask for an instance of a kind: what it has, and how it is mounted."""
    closed = host.rootfs.parent
    rootfs = {"image": "disk.img", "archive": "root.tar"}.get(kind, "rootfs")
    strategy = kind if kind in ("overlay", "chown") else "idmapped"
    asked: dict[str, Any] = {
        "rootfs": str(closed / rootfs),
        "strategy": strategy,
    }
    if kind == "volumes":
        asked["volumes"] = (
            Volume(str(closed / "data"), "/data"),
            Volume(str(closed / "shifted"), "/home/shifted", "chown"),
            Volume(str(closed / "volume.img"), "/disk", image=True),
        )
    if kind == "host":
        asked |= {"needs": Requirements("host"), "strategy": None}
    return host.request(**asked | changes)


def reach(host: InstanceHost, state: str, kind: str) -> None:
    """Bring an instance that is unknown to a state, as by its verbs."""
    manager, request = host.manager, ask(host, kind)
    if state != "unknown":
        manager.allocate(request)
    if state in ("unknown", "allocated"):
        return
    record = manager.prepare(request).record
    if state in ("stopped", "unmounted"):
        # Of a run nothing else stays, but for what it has written.
        host.services.store.save(replace(record, verified=VERIFIED))
        for name in ("hostname", "machine-id"):
            Path(record.view, "etc", name).write_text("guest\n")
    if state == "unmounted":
        manager.unmount(NAME)


def renew(host: InstanceHost) -> None:
    """Make the trees anew, unshifted and as no verb has touched them."""
    shifted = host.rootfs.parent / "shifted"
    for tree in (host.rootfs, shifted):
        shutil.rmtree(tree)
        make_tree(tree)


def check(
    host: InstanceHost,
    before: Callable[[], object],
    verb: Callable[[], object],
) -> int:
    """Kill a verb before each change, repeat it, and release.

    :param before: leads to the state in which it is called.
    :returns: number of its changes.
    """
    renew(host)
    before()
    verb()
    wanted = host.everything()
    verb()
    assert host.everything() == wanted
    host.manager.release(NAME)
    nothing = host.everything()
    assert host.state() == "unknown"
    for at in count(1):
        renew(host)
        before()
        died = run_and_kill(verb, at, is_change)
        if died:
            verb()
        assert host.everything() == wanted, f"killed at {at}"
        host.manager.release(NAME)
        # A disk goes with a process that is about to end with the killed one.
        wait_for_no_disk(host.path)
        assert host.everything() == nothing, f"killed at {at}"
        if not died:
            return at - 1
    raise AssertionError


def test_mounts_are_among_the_changes(host: InstanceHost) -> None:
    seen, told = os.pipe()

    def tell(event: str, arguments: tuple[object, ...]) -> None:
        if event == "lxc_userns.libc" and is_change(event, arguments):
            os.write(told, f"{arguments[0]} ".encode())

    def act() -> None:
        sys.addaudithook(tell)
        host.manager.prepare(host.request())
        host.manager.release(NAME)

    assert not run_and_kill(act, 1, lambda *_: False)
    os.close(told)
    with open(seen) as stream:
        # One attaches each of both views, one takes it away.
        calls = stream.read().split()
    assert [calls.count(each) for each in ("syscall", "umount2")] == [2, 2]


def test_commits_are_among_the_changes(host: InstanceHost) -> None:
    seen, told = os.pipe()

    def tell(event: str, arguments: tuple[object, ...]) -> bool:
        if event == STATEMENT and is_change(event, arguments):
            os.write(told, b".")
        return False

    def act() -> None:
        host.manager.prepare(host.request())
        host.manager.release(NAME)

    assert not run_and_kill(act, 1, tell)
    os.close(told)
    with open(seen) as stream:
        # A lease, the record of it, and what is taken back of both.
        assert len(stream.read()) > 2


#: What a verb is called for, and in which state.
KINDS = ("idmapped", "overlay", "chown", "image", "archive", "volumes", "host")
LATER = ("allocated", "prepared", "stopped", "unmounted")


@pytest.mark.parametrize("state", ["unknown", *LATER])
def test_allocate(host: InstanceHost, state: str) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, "idmapped"),
            lambda: host.manager.allocate(host.request()),
        )
        > 3
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        *(("unknown", kind) for kind in KINDS),
        *((state, "idmapped") for state in LATER),
        ("allocated", "chown"),
        ("unmounted", "archive"),
    ],
)
def test_prepare(host: InstanceHost, state: str, kind: str) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, kind),
            lambda: host.manager.prepare(ask(host, kind)),
        )
        > 20
    )


@pytest.mark.parametrize(
    ("state", "kind", "changes"),
    [
        *((state, "idmapped", {"volumes": ()}) for state in LATER),
        ("stopped", "idmapped", {"strategy": "chown"}),
        ("stopped", "archive", {"hostname": "other.example"}),
        ("unmounted", "overlay", {"hostname": "other.example"}),
    ],
)
def test_prepare_by_another_request(
    host: InstanceHost, state: str, kind: str, changes: dict[str, Any]
) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, kind),
            lambda: host.manager.prepare(ask(host, kind, **changes)),
        )
        > 20
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        *(("unmounted", kind) for kind in KINDS),
        ("prepared", "idmapped"),
        ("stopped", "idmapped"),
    ],
)
def test_prepare_by_name(host: InstanceHost, state: str, kind: str) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, kind),
            lambda: host.manager.prepare(NAME),
        )
        > 20
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [*(("stopped", kind) for kind in KINDS), ("prepared", "volumes")],
)
def test_unmount(host: InstanceHost, state: str, kind: str) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, kind),
            lambda: host.manager.unmount(NAME),
        )
        > 5
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        *(("stopped", kind) for kind in KINDS),
        *((state, "archive") for state in LATER if state != "stopped"),
        *((state, "overlay") for state in LATER if state != "stopped"),
        ("prepared", "volumes"),
        ("unmounted", "volumes"),
    ],
)
def test_release(host: InstanceHost, state: str, kind: str) -> None:
    least = 3 if state == "allocated" else 5
    assert (
        check(
            host,
            lambda: reach(host, state, kind),
            lambda: host.manager.release(NAME),
        )
        > least
    )


@pytest.mark.parametrize("state", ["unknown", *LATER])
def test_sync(host: InstanceHost, state: str) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, "image"),
            lambda: host.manager.sync(NAME),
        )
        > 2
    )


@pytest.mark.parametrize("verb", ["unmount", "release"])
@pytest.mark.parametrize("state", ["unknown", "allocated", "unmounted"])
def test_where_nothing_is_mounted(
    host: InstanceHost, state: str, verb: str
) -> None:
    assert (
        check(
            host,
            lambda: reach(host, state, "idmapped"),
            lambda: getattr(host.manager, verb)(NAME),
        )
        > 0
    )


@pytest.mark.parametrize(
    ("state", "verb"),
    [
        ("unknown", "prepare"),
        ("stopped", "prepare"),
        ("prepared", "unmount"),
        ("stopped", "release"),
    ],
)
def test_shared_maps(host: InstanceHost, state: str, verb: str) -> None:
    """There is no lease that tells what the instance has."""
    host.share_id_maps()

    def call() -> None:
        given = ask(host, "idmapped") if verb == "prepare" else NAME
        getattr(host.manager, verb)(given)

    assert check(host, lambda: reach(host, state, "idmapped"), call) > 5


@pytest.fixture
def running(host: InstanceHost) -> InstanceHost:
    """A host whose instance has a domain that can start."""
    shutil.rmtree(host.rootfs)
    images.make_busybox(host.rootfs)
    host.define(host.manager.prepare(host.request()))
    return host


@pytest.mark.parametrize("started", [True, False])
def test_verify(running: InstanceHost, started: bool) -> None:
    """It runs on, and is verified by the next call."""
    host = running
    host.start()
    unverified = host.services.store.load(NAME)
    assert unverified is not None

    def verify() -> None:
        host.manager.verify(NAME, started=started)

    verify()
    wanted = host.everything()
    for at in count(1):
        host.services.store.save(unverified)
        died = run_and_kill(verify, at, is_change)
        if died:
            verify()
        assert host.everything() == wanted, f"killed at {at}"
        if not died:
            break
    assert at > 5
    host.undefine()
    host.manager.release(NAME)
    assert host.state() == "unknown"


@pytest.mark.parametrize("started", [True, False])
def test_verify_of_what_differs(running: InstanceHost, started: bool) -> None:
    """It runs until the next call, or was destroyed by then."""
    host = running
    xml = host.connection.lookupByName(NAME).XMLDesc()
    host.undefine()
    fewer = xml.replace("count='65536'", "count='65535'")
    host.connection.defineXML(fewer)

    def verify() -> None:
        with pytest.raises(IsolationError, match="it was destroyed"):
            host.manager.verify(NAME, started=started)

    host.start()
    verify()
    wanted, runs_on = host.everything(), set()
    for at in count(1):
        host.start()
        died = run_and_kill(verify, at, is_change)
        if died:
            runs_on.add(host.state() == "running")
        if host.state() == "running":
            verify()
        with pytest.raises(NotRunningError, match="is prepared; start its"):
            host.manager.verify(NAME, started=started)
        assert host.everything() == wanted, f"killed at {at}"
        if not died:
            break
    assert runs_on == {True, False}
    host.undefine()
    host.manager.release(NAME)
    assert host.state() == "unknown"


@pytest.mark.parametrize(
    ("verb", "is_refused"),
    [
        ("allocate", False),
        ("prepare", False),
        ("prepare by name", False),
        ("prepare by another request", True),
        ("sync", False),
        ("unmount", True),
        ("release", True),
    ],
)
def test_what_runs_is_left_alone(
    running: InstanceHost, verb: str, is_refused: bool
) -> None:
    host, manager = running, running.manager
    calls: dict[str, Callable[[], object]] = {
        "allocate": lambda: manager.allocate(host.request()),
        "prepare": lambda: manager.prepare(host.request()),
        "prepare by name": lambda: manager.prepare(NAME),
        "prepare by another request": lambda: manager.prepare(
            host.request(volumes=())
        ),
        "sync": lambda: manager.sync(NAME),
        "unmount": lambda: manager.unmount(NAME),
        "release": lambda: manager.release(NAME),
    }
    host.start()
    manager.verify(NAME, started=True)
    before, pid = host.everything(), init_pid(host)

    def call() -> None:
        if is_refused:
            with pytest.raises(RunningError):
                calls[verb]()
        else:
            calls[verb]()

    for at in count(1):
        died = run_and_kill(call, at, is_change)
        call()
        assert (host.everything(), init_pid(host)) == (before, pid), at
        assert host.state() == "running"
        if not died:
            break
    assert at > 1 or is_refused


def init_pid(host: InstanceHost) -> int:
    """Return the process ID of the container's first process."""
    with host.services.guests.init_process(NAME) as init:
        return int(init.pid)
