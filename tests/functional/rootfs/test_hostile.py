# SPDX-License-Identifier: Apache-2.0
"""An image made by somebody who wants the host's root to do harm."""

import ctypes  # noqa: TID251 - for renameat2(2)
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.shifting.journal import JOURNAL, MOST_NOTES
from lxc_userns.rootfs.shifting.state import STATE, State, Work
from tests import system_calls
from tests.functional.rootfs import golden

MAP = IdMap.parse("0:100000:65536")
MAPS = IdMaps(MAP, MAP)
PENDING = golden.OURS + "pending"


def deep_chain(root: Path, depth: int, names: list[str]) -> None:
    """Make nested directories, far deeper than a path can tell."""
    fd = os.open(root, os.O_RDONLY)
    for level in range(depth):
        for name in names:
            os.mkdir(name, dir_fd=fd)
        below = os.open(names[level % len(names)], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    descriptor = os.open("end", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
    os.close(descriptor)
    os.close(fd)


@pytest.mark.parametrize("names", [["d" * 20], ["a", "b", "c"]])
def test_deeper_than_any_path(memory_root: Path, names: list[str]) -> None:
    deep_chain(memory_root, 4200, names)
    code = (
        "import resource, sys; from lxc_userns import IdMap, IdMaps, rootfs;"
        # The usual limit of a login, and of a service.
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024));"
        "m = IdMap.parse('0:100000:65536');"
        "r = rootfs.shift(sys.argv[1], IdMaps(m, m));"
        "print(r.inodes, r.shifted)"
    )
    argv = [sys.executable, "-c", code, str(memory_root)]
    printed = subprocess.check_output(argv, text=True, timeout=60)
    inodes = 4200 * len(names) + 2
    assert printed == f"{inodes} {inodes}\n"
    # find walks by descriptors as well.
    argv = ["find", str(memory_root), "-uid", "0", "-o", "-gid", "0"]
    assert subprocess.check_output(argv, timeout=60) == b""


@pytest.mark.parametrize("any_root", ["xfs"], indirect=True)
def test_directory_with_many_entries(any_root: Path) -> None:
    big = any_root / "big"
    big.mkdir()
    here = os.open(big, os.O_RDONLY)
    for number in range(100_000):
        os.mknod(f"{number:020}", stat.S_IFREG | 0o644, dir_fd=here)
    for number in range(50):
        os.mkdir(f"dir{number}", dir_fd=here)
    os.close(here)
    report = rootfs.shift(any_root, MAPS, workers=2)
    assert report.inodes == report.shifted == 100_052
    with os.scandir(big) as entries:
        owners = {e.stat(follow_symlinks=False).st_uid for e in entries}
    assert owners == {100000}


def test_swapped_for_a_link(root: Path, tmp_path: Path) -> None:
    """A directory turns into a link out of the tree, and back again."""
    canary = tmp_path / "canary"
    canary.mkdir()
    for name in ("file", "suid"):
        (canary / name).write_text(name)
    (canary / "suid").chmod(0o4755)
    tree = root / "tree"
    (tree / "place").mkdir(parents=True)
    for number in range(50):
        (tree / "place" / str(number)).touch()
        (tree / f"more{number}").mkdir()
    (tree / "link").symlink_to(canary)
    before = golden.snapshot(canary)
    swap = exchanger(tree / "place", tree / "link")
    stop = threading.Event()
    swaps = 0

    def keep_swapping() -> None:
        nonlocal swaps
        while not stop.is_set():
            swap()
            swaps += 1

    thread = threading.Thread(target=keep_swapping)
    thread.start()
    deadline = time.monotonic() + 2.5
    try:
        while time.monotonic() < deadline:
            for back in (False, True):
                try:
                    if back:
                        rootfs.unshift(tree)
                    else:
                        rootfs.shift(tree, MAPS)
                except RootfsError as err:
                    assert err.path == str(tree)  # noqa: PT017
                    assert "changed while" in err.reason  # noqa: PT017
    finally:
        stop.set()
        thread.join()
    assert golden.snapshot(canary) == before
    assert swaps > 100
    rootfs.shift(tree, MAPS)
    assert rootfs.verify(tree).ok


def test_swapped_between_status_and_entry(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same at the one moment at which it would count."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").touch()
    before = golden.snapshot(canary)
    tree = root / "tree"
    (tree / "place").mkdir(parents=True)
    (tree / "link").symlink_to(canary)
    swap = exchanger(tree / "place", tree / "link")
    entered = []

    def swap_first(name: object, *_: object) -> None:
        if name == b"place":
            entered.append(name)
            swap()

    # By one worker, which is a thread. It meets the directory where the link
    # was when it walks again.
    with system_calls.acting("open", swap_first):
        rootfs.shift(tree, MAPS, workers=1)
    assert entered
    assert golden.snapshot(canary) == before
    assert os.lstat(tree / "link").st_uid == 100000
    assert os.lstat(tree / "place").st_uid == 100000


# renameat2(2), which the standard library lacks.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


def exchanger(one: Path, other: Path) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)

    def swap() -> None:
        places = AT_FDCWD, paths[0], AT_FDCWD, paths[1]
        assert libc.renameat2(*places, RENAME_EXCHANGE) == 0

    return swap


@pytest.mark.parametrize("source", ["tmpfs", "bind"])
def test_mount_below_is_left_alone(root: Path, source: str) -> None:
    tree, elsewhere = root / "tree", root / "elsewhere"
    (tree / "mounted" / "hidden").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    argv = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs"]
    if source == "bind":
        argv = ["mount", "--bind", str(elsewhere)]
    subprocess.run([*argv, tree / "mounted"], check=True)
    if source == "tmpfs":
        (tree / "mounted" / "file").touch()
    report = rootfs.shift(tree, MAPS)
    assert report.inodes == 3
    assert os.stat(tree / "mounted").st_uid == 0
    assert os.stat(tree / "mounted" / "file").st_uid == 0
    assert os.stat(elsewhere / "file").st_uid == 0
    subprocess.run(["umount", tree / "mounted"], check=True)
    assert os.stat(tree / "mounted").st_uid == 100000
    assert os.stat(tree / "mounted" / "hidden").st_uid == 100000


@pytest.fixture
def old_kernel() -> Iterator[None]:
    """A kernel that makes no detached copies of mounts."""
    with system_calls.failing(system_calls.OPEN_TREE):
        yield


@pytest.mark.usefixtures("old_kernel")
def test_mount_below_where_it_cannot_be_left_out(root: Path) -> None:
    (root / "tree" / "mounted").mkdir(parents=True)
    argv = ["mount", "-t", "tmpfs", "tmpfs", str(root / "tree/mounted")]
    subprocess.run(argv, check=True)
    with pytest.raises(RootfsError, match="unmount them first") as caught:
        rootfs.shift(root / "tree", MAPS)
    assert str(root / "tree" / "mounted") in str(caught.value)
    assert os.stat(root / "tree").st_uid == 0


@pytest.mark.usefixtures("old_kernel")
def test_access_times_without_a_mount_of_our_own(any_root: Path) -> None:
    golden.build(any_root)
    before = golden.snapshot(any_root)
    rootfs.shift(any_root, MAPS)
    rootfs.unshift(any_root)
    assert golden.snapshot(any_root) == before


def test_special_file_is_never_opened(root: Path) -> None:
    """Not even when a forged note says that its flags are to be restored."""
    half_done = State(None, Work(MAPS, "keep"))
    os.setxattr(root, STATE, half_done.encode())
    kinds = (("fifo", stat.S_IFIFO), ("null", stat.S_IFCHR))
    for number, (name, kind) in enumerate(kinds):
        os.mknod(root / name, kind | 0o6666, os.makedev(1, 3))
        (root / name).chmod(0o6666)
        st = os.stat(root / name)
        note = f"{st.st_ino} {st.st_mtime_ns} {st.st_size} 10 - -"
        os.setxattr(root, f"{JOURNAL}{number}", note.encode())
    log = root.parent / "open.log"
    code = (
        "import sys; from lxc_userns import IdMap, IdMaps, rootfs;"
        "m = IdMap.parse('0:100000:65536');"
        "rootfs.shift(sys.argv[1], IdMaps(m, m))"
    )
    argv = ["strace", "-f", "--seccomp-bpf", "-y", "-o", str(log)]
    argv += ["-e", "trace=open,openat", sys.executable, "-c", code, str(root)]
    subprocess.run(argv, check=True, timeout=60)
    opened = [
        line
        for line in log.read_text().splitlines()
        if "/fifo>" in line or "</null<" in line
    ]
    log.unlink()
    assert opened
    assert all("O_PATH" in line for line in opened)
    after = golden.snapshot(root)
    assert after.pop(b"/null").uid == 0
    assert {i.uid for i in after.values()} == {100000}
    assert after[b"/fifo"].mode == stat.S_IFIFO | 0o6666


@pytest.mark.parametrize("name", ["", "file"])
@pytest.mark.parametrize(
    "value", [b"", b"x", b"4755", b"4755 - -", b"9 -", b"- zz", b"\xff \xff"]
)
def test_malformed_journal(
    root: Path, name: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """None of ours, for the kernel writes an attribute whole.

    The inode keeps what it has, and gets nothing that it has not.
    """
    (root / "file").touch()
    (root / "file").chmod(0o4755)
    os.setxattr(root / name, PENDING, value)
    rootfs.shift(root, MAPS)
    assert f"{(root / name) if name else root}: a note" in caplog.text
    assert golden.notes(golden.snapshot(root)) == [(b"", STATE)]
    st = os.stat(root / "file")
    assert (st.st_uid, st.st_mode & 0o7777) == (100000, 0o4755)
    rootfs.unshift(root)


@pytest.mark.parametrize("half_done", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", b"x"),
        ("", b""),
        ("0", b"7"),
        ("007", b"{ino} 0 0 10 - -"),
        ("\N{ARABIC-INDIC DIGIT THREE}", b"{ino} 0 0 10 - -"),
        ("9" * 200, b"9" * 3000 + b" 0 0 10 - -"),
        ("0", b"{ino} \xff"),
        ("1", b"{ino} 0 0 10 4755"),
        ("1", b"{ino} 0 0 10 zz zz"),
        ("1", b"{ino} 1 0 10 4755 -"),
        ("5", b"{ino} 0 0 ffffffff - -"),
    ],
)
def test_malformed_note(
    root: Path, name: str, value: bytes, half_done: bool
) -> None:
    (root / "file").touch()
    os.utime(root / "file", ns=(0, 0))
    number = b"%d" % os.stat(root / "file").st_ino
    os.setxattr(root, JOURNAL + name, value.replace(b"{ino}", number))
    if half_done:
        state = State(None, Work(MAPS, "keep"))
        os.setxattr(root, STATE, state.encode())
    rootfs.shift(root, MAPS)
    assert golden.notes(golden.snapshot(root)) == [(b"", STATE)]
    assert os.stat(root / "file").st_mode == stat.S_IFREG | 0o644
    rootfs.unshift(root)


@pytest.mark.parametrize("any_root", ["xfs"], indirect=True)
@pytest.mark.parametrize(
    ("half_done", "back"), [(False, False), (True, False), (True, True)]
)
def test_as_many_notes_as_there_can_be(
    any_root: Path, half_done: bool, back: bool
) -> None:
    """Brought by an image, or left by a kill each."""
    for number in range(10):
        (any_root / f"file{number}").touch()
    os.chown(any_root / "file5", 100000, 100000)
    for number in range(10):
        golden.set_flags(any_root / f"file{number}", golden.IMMUTABLE)
    for number in range(MOST_NOTES):
        os.setxattr(any_root, f"{JOURNAL}{number}", b"5 0 0 10 4755 -")
    if half_done:
        state = State(None, Work(MAPS, "keep"))
        os.setxattr(any_root, STATE, state.encode())
    if back:
        rootfs.unshift(any_root)
    rootfs.shift(any_root, MAPS)
    assert {each.stat().st_uid for each in any_root.iterdir()} == {100000}
    assert golden.notes(golden.snapshot(any_root)) == [(b"", STATE)]


GOOD = json.loads(State(MAPS).encode())
WORK = {"maps": GOOD["maps"], "unmapped": "keep", "transit": None, "step": 0}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe",
        b"[" * 3000,
        b"null",
        {**GOOD, "version": 2},
        {**GOOD, "inodes": float("inf")},
        {**GOOD, "maps": {"uid": "0:0:1", "gid": "0:0:1"}},
        {**GOOD, "work": {**WORK, "step": 1}},
        {**GOOD, "work": {**WORK, "transit": -70000}},
    ],
)
def test_malformed_state(root: Path, value: bytes | dict[str, object]) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    os.setxattr(root, STATE, data)
    before = golden.snapshot(root)
    for action in (
        lambda: rootfs.shift(root, MAPS),
        lambda: rootfs.unshift(root),
        lambda: rootfs.verify(root),
        lambda: rootfs.read_state(root),
    ):
        with pytest.raises(RootfsError, match="attribute trusted") as caught:
            action()
        assert caught.value.path == str(root)
        assert "\n" not in str(caught.value)
    assert golden.snapshot(root) == before


@pytest.mark.parametrize("any_root", ["xfs"], indirect=True)
def test_more_attributes_than_can_be_listed(any_root: Path) -> None:
    file = any_root / "file"
    file.touch()
    file.chmod(0o4755)
    for number in range(400):
        os.setxattr(file, f"user.{number:03}{'n' * 200}", b"")
    with pytest.raises(OSError, match="too long"):
        os.listxattr(file)
    rootfs.shift(any_root, MAPS)
    st = os.stat(file)
    assert (st.st_uid, st.st_mode & 0o7777) == (100000, 0o4755)


def test_unsorted_acl_comes_back_as_it_was(root: Path) -> None:
    unsorted = golden.acl(
        (0x01, 6, golden.NO_ID),
        (0x02, 4, 2000),
        (0x02, 5, 5),
        (0x04, 4, golden.NO_ID),
        (0x10, 7, golden.NO_ID),
        (0x20, 0, golden.NO_ID),
    )
    (root / "file").touch()
    os.setxattr(root / "file", golden.ACCESS, unsorted)
    rootfs.shift(root, MAPS)
    rootfs.unshift(root)
    assert os.getxattr(root / "file", golden.ACCESS) == unsorted
