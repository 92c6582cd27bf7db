# SPDX-License-Identifier: Apache-2.0
"""Many processes on one tree, and what they leave in the calling one."""

import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.linux.processes import children
from tests.functional.descriptors import own_descriptors
from tests.functional.rootfs import golden
from tests.functional.rootfs.golden import mapped

MAP = IdMap.parse("0:100000:65536")
MAPS = IdMaps(MAP, MAP)
OWNER = mapped((0, 100000, 65536))


def fill(root: Path, directories: int, files: int) -> int:
    """Make directories of empty files; returns the number of inodes."""
    for number in range(directories):
        (root / f"d{number}").mkdir()
        fd = os.open(root / f"d{number}", os.O_RDONLY)
        for name in range(files):
            os.mknod(f"file{name:020}", stat.S_IFREG | 0o644, dir_fd=fd)
        os.close(fd)
    return directories * (files + 1)


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_number_makes_no_difference(memory_root: Path, workers: int) -> None:
    golden.build(memory_root)
    inodes = fill(memory_root, 400, 5) + fill(memory_root / "other", 1, 3000)
    before = golden.snapshot(memory_root)
    report = rootfs.shift(memory_root, MAPS, workers=workers)
    after = golden.without_notes(golden.snapshot(memory_root))
    assert after == golden.expected(before, OWNER, OWNER)
    assert report.inodes == len({i.number for i in before.values()}) > inodes
    # Three by their owners, two by an ACL.
    assert report.unmapped == 5


def test_more_workers_than_a_pipe_has_room(memory_root: Path) -> None:
    """Each has to be told to quit."""
    inodes = fill(memory_root, 60, 50)
    code = (
        "import sys; from lxc_userns import IdMap, IdMaps, rootfs;"
        "m = IdMap.parse('0:100000:65536');"
        "print(rootfs.shift(sys.argv[1], IdMaps(m, m), workers=40).shifted)"
    )
    argv = [sys.executable, "-c", code, str(memory_root)]
    # A child, for what goes wrong here is that it never ends.
    printed = subprocess.check_output(argv, timeout=60)
    assert int(printed) == inodes + 1


def test_waits_for_whoever_has_the_inode(
    memory_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = memory_root / "suid"
    file.touch()
    file.chmod(0o4755)
    os.link(file, memory_root / "link")
    holders: list[subprocess.Popen[bytes]] = []

    make_memfd = os.memfd_create

    def make_locked(name: str, flags: int) -> int:
        board = make_memfd(name, flags)
        code = (
            "import fcntl, sys;"
            "board, inode = map(int, sys.argv[1:]);"
            "fcntl.lockf(board, fcntl.LOCK_EX, 1, inode);"
            "print('locked', flush=True); sys.stdin.read()"
        )
        inode = str(os.stat(file).st_ino)
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(board), inode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[board],
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        holders.append(holder)
        return board

    monkeypatch.setattr(os, "memfd_create", make_locked)
    thread = threading.Thread(target=rootfs.shift, args=(memory_root, MAPS))
    thread.start()
    thread.join(1)
    try:
        assert thread.is_alive()
        assert os.stat(file).st_uid == 0
    finally:
        for holder in holders:
            holder.communicate(timeout=10)
        thread.join()
    st = os.stat(file)
    assert (st.st_uid, st.st_mode & 0o7777) == (100000, 0o4755)


def test_one_inode_by_two_workers(memory_root: Path) -> None:
    root = memory_root
    for name in ("a", "b"):
        (root / name).mkdir()
    fill(root, 20, 100)
    # As many names as the first worker needs before it gets company.
    for number in range(2500):
        path = root / "a" / str(number)
        path.touch()
        if number % 2:
            path.chmod(0o6755)
        if number % 3 == 0:
            os.setxattr(path, golden.CAPABILITY, golden.CAPS)
        os.link(path, root / "b" / str(number))
    before = golden.snapshot(root)
    for _ in range(2):
        report = rootfs.shift(root, MAPS, workers=2)
        assert report.inodes == report.shifted == 2503 + 20 * 101
        after = golden.without_notes(golden.snapshot(root))
        assert after == golden.expected(before, OWNER, OWNER)
        rootfs.unshift(root, workers=2)
        assert golden.snapshot(root) == before


def all_that_is_ours() -> tuple[object, ...]:
    """Return what this process has open and runs; tests before have some."""
    threads = threading.active_count()
    # One that has ended is there until it is waited for.
    processes = sorted(children(os.getpid()))
    return own_descriptors(), os.getcwd(), threads, processes


def test_nothing_is_left_behind(memory_root: Path) -> None:
    fill(memory_root, 30, 100)
    rootfs.shift(memory_root, MAPS, workers=2)
    before = all_that_is_ours()
    mask = os.umask(0o027)
    for turn in range(25):
        rootfs.unshift(memory_root, workers=1 + turn % 2)
        rootfs.shift(memory_root, MAPS, workers=1 + turn % 2)
    assert os.umask(mask) == 0o027
    assert all_that_is_ours() == before


def test_many_open_files(memory_root: Path) -> None:
    """A compute service has descriptors beyond what select() takes."""
    fill(memory_root, 20, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        report = rootfs.shift(memory_root, MAPS, workers=2)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert report.shifted == 20 * 101 + 1


def test_soft_limit_of_descriptors(memory_root: Path) -> None:
    """It is raised while it is needed, and is as it was afterwards."""
    fill(memory_root, 10, 100)
    code = (
        "import resource, sys; from lxc_userns import IdMap, IdMaps, rootfs;"
        "from lxc_userns.linux import descriptors;"
        "limit = lambda: resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096));"
        "m = IdMap.parse('0:100000:65536'); seen = set();"
        "see = lambda _: seen.add(limit());"
        "rootfs.shift(sys.argv[1], IdMaps(m, m), progress=see);"
        "assert seen == {(4096, 4096)} and limit() == (64, 4096);"
        "one, two = descriptors.many(), descriptors.many();"
        "one.__enter__(); two.__enter__(); one.__exit__(None, None, None);"
        "assert limit() == (4096, 4096); two.__exit__(None, None, None);"
        "assert limit() == (64, 4096)"
    )
    argv = [sys.executable, "-c", code, str(memory_root)]
    subprocess.run(argv, check=True, timeout=60)


def test_progress(memory_root: Path) -> None:
    inodes = fill(memory_root, 30, 100)
    for path in (memory_root, *memory_root.iterdir()):
        # Not changed right now, for which it would be walked twice.
        os.utime(path, (0, 0))
    seen: list[int] = []
    rootfs.shift(memory_root, MAPS, workers=2, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == inodes


def test_progress_that_raises_ends_all(memory_root: Path) -> None:
    fill(memory_root, 50, 200)
    before = all_that_is_ours()

    def refuse(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rootfs.shift(memory_root, MAPS, workers=2, progress=refuse)
    assert all_that_is_ours() == before
    rootfs.shift(memory_root, MAPS)
    assert rootfs.verify(memory_root).ok


PEAK = """
import sys
from pathlib import Path
from lxc_userns import IdMap, IdMaps, rootfs
m = IdMap.parse(sys.argv[2])
peaks = {}
def peak(pid):
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return
    for line in text.splitlines():
        if line.startswith("VmHWM"):
            # A worker counts from when it has loaded itself.
            peaks[pid] = int(line.split()[1])
def progress(_):
    for pid in Path("/proc/thread-self/children").read_text().split():
        peak(pid)
rootfs.shift(sys.argv[1], IdMaps(m, m), workers=2, progress=progress)
own = Path("/proc/self/status").read_text()
peak("self")
print(peaks.pop("self"), max(peaks.values()))
"""


def test_memory_is_flat(memory_root: Path) -> None:
    """Ten times the inodes take no more than a few MiB more."""
    measured = []
    for directories, text in ((40, "0:100000:65536"), (360, "0:200000:65536")):
        more = memory_root / f"more{directories}"
        more.mkdir()
        fill(more, directories, 500)
        argv = [sys.executable, "-c", PEAK, str(memory_root), text]
        printed = subprocess.check_output(argv, text=True, timeout=60)
        measured.append([int(kib) for kib in printed.split()])
    (own, worker), (own_later, worker_later) = measured
    assert own_later - own < 4096
    assert worker_later - worker < 4096
