# SPDX-License-Identifier: Apache-2.0
"""Locks that only root can hold, and that are gone afterwards."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.linux import directory, locks
from lxc_userns.rootfs.shifting import tree
from lxc_userns.rootfs.views import idmapped
from tests.functional import guest
from tests.functional.rootfs.test_refusals import ACTIONS, MAPS, refused
from tests.waiting import hurried

LOCKS = Path(locks.PLACE)


def lock_files(path: Path) -> list[str]:
    """Locks of a tree; others are other people's."""
    st = path.stat()
    name = f"tree-{st.st_dev}-{st.st_ino}"
    return [each.name for each in LOCKS.iterdir() if each.name == name]


@contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a tree, as another process that works on it does."""
    with tree.open_tree(path, shared=shared):
        yield


@contextmanager
def held_by(*prefix: str | Path, path: Path) -> Iterator[None]:
    """Hold a lock on a directory itself, as whoever can open it may."""
    argv = [*map(str, prefix), "flock", "--exclusive", str(path)]
    child = subprocess.Popen(
        [*argv, "sh", "-c", "echo locked; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"locked\n"
        yield
    finally:
        child.communicate(b"\n", timeout=10)


@pytest.fixture
def quick() -> Iterator[None]:
    """Give up soon."""
    with hurried():
        yield


@pytest.mark.usefixtures("quick")
def test_a_user_of_the_host_cannot_keep_us_from_a_tree(
    reachable_path: Path,
) -> None:
    path = reachable_path / "tree"
    path.mkdir()
    reachable_path.chmod(0o755)
    with held_by(*guest.HOST_USER, path=path):
        rootfs.shift(path, MAPS)
        assert rootfs.verify(path).ok
        rootfs.shift(path, guest.id_maps())


@pytest.mark.usefixtures("quick")
def test_a_container_cannot_keep_us_from_its_volume(
    reachable_path: Path,
) -> None:
    path = reachable_path / "volume"
    path.mkdir()
    reachable_path.chmod(0o755)
    rootfs.shift(path, MAPS)
    with (
        idmapped.user_namespace(MAPS) as namespace,
        held_by(
            "nsenter", f"--user=/proc/{os.getpid()}/fd/{namespace}", "-S0",
            "-G0", path=path,
        ),
    ):  # fmt: skip
        rootfs.shift(path, MAPS, recheck=True)
        assert rootfs.read_state(path) is not None


def test_no_one_else_gets_at_the_locks(root: Path) -> None:
    with held(root):
        assert lock_files(root)
        assert LOCKS.stat().st_mode & 0o7777 == 0o700
        argv = [*guest.HOST_USER, "ls", str(LOCKS)]
        done = subprocess.run(argv, capture_output=True, timeout=60)
        assert b"Permission denied" in done.stderr
    assert not lock_files(root)


@pytest.mark.parametrize(
    ("uid", "mode", "reason"),
    [(0, 0o755, "has mode 0755"), (1000, 0o700, "belongs to user 1000")],
)
def test_a_directory_of_locks_that_others_can_open_is_none(
    root: Path, tmp_path: Path, uid: int, mode: int, reason: str
) -> None:
    place = tmp_path / "locks"
    place.mkdir()
    place.chmod(mode)
    os.chown(place, uid, 0)
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    # In a mount namespace of its own: others need the locks meanwhile.
    script = f'mount --bind {place} {LOCKS} && exec "$@"'
    shift = [sys.executable, "-m", "lxc_userns", "rootfs", "shift", str(root)]
    maps = ["--uid-map", str(MAPS.uid), "--gid-map", str(MAPS.gid)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *shift, *maps],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"{LOCKS} {reason}" in done.stderr
    assert root.stat().st_uid == 0


@pytest.mark.usefixtures("quick")
def test_two_at_once(root: Path) -> None:
    (root / "file").touch()
    with held(root):
        for action in ACTIONS.values():
            refused(partial(action, root), "another process", str(root))
        assert os.stat(root / "file").st_uid == 0
    # Readers do not keep each other out.
    with held(root, shared=True):
        assert not rootfs.verify(root, MAPS).ok
        assert lock_files(root)
        refused(lambda: rootfs.shift(root, MAPS), "another process", str(root))
    assert not lock_files(root)
    rootfs.shift(root, MAPS)
    assert not lock_files(root)


def test_second_waits(root: Path) -> None:
    (root / "file").touch()
    start = time.monotonic()
    with held(root):
        thread = threading.Thread(target=rootfs.shift, args=(root, MAPS))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert os.stat(root / "file").st_uid == 0
    thread.join(10)
    assert time.monotonic() - start > 0.3
    assert os.stat(root / "file").st_uid == 100000


@pytest.mark.usefixtures("quick")
def test_a_mount_elsewhere_is_the_same_tree(root: Path) -> None:
    point = root.parent / "point"
    point.mkdir(exist_ok=True)
    guest.call("mount", "--bind", root, point)
    try:
        with held(root):
            shift = partial(rootfs.shift, point, MAPS)
            refused(shift, "another process", str(point))
    finally:
        guest.call("umount", point)


HOLD = """
import os, sys
from lxc_userns.rootfs.shifting.tree import open_tree
with open_tree(sys.argv[1], shared=False) as tree:
    if sys.argv[2] == "fork" and os.fork() == 0:
        pass
    os.write(1, b"locked\\n")
    sys.stdin.read()
"""


def test_a_crash_frees_the_lock(root: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(root), "alone"]
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"locked\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=10)
    # The file is left, and the next one removes it.
    assert lock_files(root)
    rootfs.shift(root, MAPS)
    assert not lock_files(root)


@pytest.mark.usefixtures("quick")
def test_a_worker_that_outlives_the_others_keeps_it(root: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(root), "fork"]
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for _ in range(2):
            assert child.stdout.readline() == b"locked\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
        refused(lambda: rootfs.shift(root, MAPS), "another process", str(root))
    finally:
        # The end of the pipe ends the other one.
        child.communicate(timeout=10)
    rootfs.shift(root, MAPS)


RACE = """
import os, sys
from lxc_userns.linux import locks
place = os.open(sys.argv[1], os.O_RDONLY)
counter = os.open("counter", os.O_RDWR, dir_fd=place)
inside = os.open("inside", os.O_RDWR, dir_fd=place)
for turn in range(int(sys.argv[2])):
    name = f"lock{turn % 3}" if sys.argv[3] == "several" else "lock"
    with locks.held(place, name):
        if name != "lock":
            continue
        # Whoever else is in here has written that down.
        assert os.pread(inside, 1, 0) == b"0"
        os.pwrite(inside, b"1", 0)
        number = int(os.pread(counter, 20, 0))
        os.pwrite(counter, b"%020d" % (number + 1), 0)
        os.pwrite(inside, b"0", 0)
    if turn % 3 == 0:
        with locks.held(place, name, shared=True):
            if name == "lock":
                assert os.pread(inside, 1, 0) == b"0"
"""


@pytest.mark.parametrize("names", ["one", "several"])
def test_processes_race_for_a_file_that_comes_and_goes(
    tmp_path: Path, names: str
) -> None:
    turns, processes = 1500, 4
    (tmp_path / "counter").write_bytes(b"%020d" % 0)
    (tmp_path / "inside").write_bytes(b"0")
    argv = [sys.executable, "-c", RACE, str(tmp_path), str(turns), names]
    children = [subprocess.Popen(argv) for _ in range(processes)]
    assert [child.wait(120) for child in children] == [0] * processes
    if names == "one":
        counted = int((tmp_path / "counter").read_bytes())
        assert counted == turns * processes
    assert sorted(os.listdir(tmp_path)) == ["counter", "inside"]


def test_threads_race_too(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(place: int) -> None:
        for turn in range(300):
            with locks.held(place, "lock"):
                inside.append(turn)
                assert len(inside) == 1
                inside.pop()

    with directory.opened(tmp_path) as place:
        threads = [threading.Thread(target=work, args=(place,))
                   for _ in range(4)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert os.listdir(tmp_path) == []


def test_a_lock_whose_file_was_taken_away_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between opening a file and locking it."""
    flock = fcntl.flock
    taken: list[str] = []

    def slow(fd: int, operation: int) -> None:
        if not taken:
            taken.append("away")
            os.unlink(tmp_path / "lock")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with directory.opened(tmp_path) as place, locks.held(place, "lock"):
        assert taken
        assert os.listdir(tmp_path) == ["lock"]
        with (
            pytest.raises(TimeoutError),
            locks.held(place, "lock", limit=0.05),
        ):
            pass
    assert os.listdir(tmp_path) == []


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with (
        directory.opened(tmp_path) as place,
        pytest.raises(OSError, match="symbolic link"),
        locks.held(place, "lock"),
    ):
        pass
    assert os.listdir(tmp_path) == ["lock"]
