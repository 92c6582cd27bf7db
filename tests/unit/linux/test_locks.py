# SPDX-License-Identifier: Apache-2.0
"""Locks of a thread: what it must not do meanwhile, how long it waits."""

import threading
import time
from pathlib import Path

import pytest

from lxc_userns.exceptions import LockTimeoutError
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import LeaseStore
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import directory, locks


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.mark.parametrize("ask", ["version", "list", "capabilities"])
def test_libvirtd_is_not_asked_under_a_lock(ask: str, state: str) -> None:
    """Its hook may be waiting for the lock (see its documentation)."""
    ask_it = getattr(Guests("lxc:///no-such"), ask)
    store, leases = InstanceStore(state), LeaseStore(state)
    with directory.open_private(state, 0o700) as fd:
        for lock, name in (
            (store.lock("web"), "instance-web"),
            (store.lock_trees([fd]), "rootfs-"),
            (leases.write(), "leases"),
            (leases.write(keep=False), "leases"),
            (locks.held(fd, "any"), "any"),
        ):
            with lock, pytest.raises(RuntimeError, match=f"locks {name}"):
                ask_it()
    locks.check_none_held("ask")


def test_all_that_it_holds_is_told(state: str) -> None:
    store = InstanceStore(state)
    both = "asked to list under the locks instance-a, instance-b: its hook"
    with store.lock("a"):
        with store.lock("b"), pytest.raises(RuntimeError, match=both):
            locks.check_none_held("list")
        with pytest.raises(RuntimeError, match="locks instance-a: its"):
            locks.check_none_held("list")


def test_what_no_hook_waits_for(state: str) -> None:
    store = InstanceStore(state)
    with store.lock_container("web"):
        locks.check_none_held("list")
        with LeaseStore(state).read():
            locks.check_none_held("list")


def test_what_another_thread_holds(state: str) -> None:
    store, found = InstanceStore(state), []

    def ask() -> None:
        locks.check_none_held("list")
        found.append("asked")

    with store.lock("web"):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert found == ["asked"]


def test_a_lock_that_fails_is_not_held(state: str) -> None:
    store = InstanceStore(state)
    with (
        store.lock_container("web"),
        locks.time_limit(0.02),
        pytest.raises(LockTimeoutError, match=r"^lock container-web: another"),
        store.lock_container("web"),
    ):
        pytest.fail("it was given twice")
    locks.check_none_held("list")


def test_files_that_the_killed_leave(state: str) -> None:
    """They go, and those of locks that somebody holds stay."""
    store, place = InstanceStore(state), Path(state, "locks")
    store.sweep_locks()
    assert not place.exists()
    with store.lock("held"):
        (place / "instance-left").touch()
        (place / "link").symlink_to(state)
        store.sweep_locks()
        assert {each.name for each in place.iterdir()} == {
            *("instance-held", "link")
        }
        with (
            locks.time_limit(0.02),
            pytest.raises(LockTimeoutError),
            store.lock("held"),
        ):
            pytest.fail("it was given twice")
    with directory.opened(place) as fd:
        with locks.held(fd, "shared", shared=True):
            locks.sweep(fd)
            assert (place / "shared").exists()
        assert not (place / "shared").exists()


def test_sweeping_lets_no_one_in(state: str) -> None:
    """Locks exclude each other while their files are removed."""
    store, inside, most = InstanceStore(state), [], 0
    ends = time.monotonic() + 0.3

    def work() -> None:
        nonlocal most
        while time.monotonic() < ends:
            with store.lock("web"):
                inside.append(1)
                most = max(most, len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    sweeps = 0
    while time.monotonic() < ends:
        store.sweep_locks()
        sweeps += 1
    for thread in threads:
        thread.join()
    assert most == 1
    assert sweeps > 10


def test_the_limit_is_for_all_locks_together(state: str) -> None:
    store, leases = InstanceStore(state), LeaseStore(state)
    with leases.write(), store.lock_container("web"):
        start = time.monotonic()
        with locks.time_limit(0.2):
            # A longer limit of the lock itself does not count.
            for _ in range(5):
                for lock in (store.lock_container("web"), leases.write()):
                    with pytest.raises(LockTimeoutError), lock:
                        pytest.fail("it was given twice")
            assert locks.time_left(5.0) == 0.0
            with locks.time_limit(60):
                assert locks.time_left(5.0) == 0.0
        assert 0.2 <= time.monotonic() - start < 2
        assert locks.time_left(5.0) == 5.0
    with locks.time_limit(0), store.lock("web"), leases.write():
        pass  # What is free is not waited for.
