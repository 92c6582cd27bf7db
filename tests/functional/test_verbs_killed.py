# SPDX-License-Identifier: Apache-2.0
"""Kill -9 a verb before each of its changes, and call it again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import libvirt
import pytest

from lxc_userns import InstanceRequest
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
_CALLS = {"mount", "umount2", "renameat2"}
_MOVE_MOUNT = 429


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
        make_files(found)
        # What is made once for all instances is there.
        found.manager.prepare(found.request())
        found.manager.release(NAME)
        yield found


def make_files(host: InstanceHost) -> None:
    make_tree(host.rootfs)
    closed = host.rootfs.parent
    images.make_image("ext4", closed / "disk.img", 8, root=host.rootfs)
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


def ask(host: InstanceHost, kind: str) -> InstanceRequest:
    closed = host.rootfs.parent
    rootfs = {"image": "disk.img", "archive": "root.tar"}.get(kind, "rootfs")
    strategy = kind if kind in ("overlay", "chown") else "idmapped"
    return host.request(rootfs=str(closed / rootfs), strategy=strategy)


def renew(host: InstanceHost) -> None:
    """Make the tree anew, unshifted and as no verb has touched it."""
    shutil.rmtree(host.rootfs)
    make_tree(host.rootfs)


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


def test_allocate(host: InstanceHost) -> None:
    def allocate() -> None:
        host.manager.allocate(host.request())

    assert check(host, bool, allocate) > 3


@pytest.mark.parametrize(
    "kind", ["idmapped", "overlay", "chown", "image", "archive"]
)
def test_prepare(host: InstanceHost, kind: str) -> None:
    def prepare() -> None:
        host.manager.prepare(ask(host, kind))

    assert check(host, bool, prepare) > 20


def test_prepare_by_name(host: InstanceHost) -> None:
    def unmounted() -> None:
        host.manager.prepare(ask(host, "idmapped"))
        host.manager.unmount(NAME)

    def prepare() -> None:
        host.manager.prepare(NAME)

    assert check(host, unmounted, prepare) > 10


@pytest.mark.parametrize("kind", ["idmapped", "overlay", "image"])
def test_unmount(host: InstanceHost, kind: str) -> None:
    def prepared() -> None:
        host.manager.prepare(ask(host, kind))

    def unmount() -> None:
        host.manager.unmount(NAME)

    assert check(host, prepared, unmount) > 5


@pytest.mark.parametrize("kind", ["overlay", "archive"])
def test_release(host: InstanceHost, kind: str) -> None:
    def prepared() -> None:
        host.manager.prepare(ask(host, kind))

    def release() -> None:
        host.manager.release(NAME)

    assert check(host, prepared, release) > 10


@pytest.mark.parametrize("started", [True, False])
def test_verify(host: InstanceHost, started: bool) -> None:
    """It runs on, and is verified by the next call."""
    shutil.rmtree(host.rootfs)
    images.make_busybox(host.rootfs)
    prepared = host.manager.prepare(host.request())
    host.define(prepared)
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
