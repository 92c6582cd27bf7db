# SPDX-License-Identifier: Apache-2.0
"""Places to unpack to: taken, shared, full, unable."""

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import (
    NotIdmappableError,
    PrerequisiteError,
    RootfsError,
)
from lxc_userns.rootfs.archive.tar import SHORTAGES
from tests import system_calls
from tests.functional.conftest import mount_new
from tests.functional.rootfs.archives import (
    BASE,
    COMPRESSORS,
    compress,
    holder_of,
    id_maps,
    refused,
    unpack,
)
from tests.functional.rootfs.sandbox import (
    LONGEST,
    Unpacking,
    family,
    paused,
)
from tests.waiting import hurried, wait_for

pytestmark = [
    pytest.mark.needs("mounts"),
    pytest.mark.usefixtures("no_holder_left"),
]


def test_two_at_once(
    tmp_path: Path,
    large: Path,
    small: Path,
) -> None:
    with paused():
        work = Unpacking(large, tmp_path / "out", True)
        work.start()
        found = wait_for(lambda: family(os.getpid()))
    with hurried():
        reason = refused(small, tmp_path / "out")
    assert "another process is unpacking to it" in reason
    # Others are not kept waiting.
    assert unpack(small, tmp_path / "other").inodes == 2
    os.kill(found["tar"], signal.SIGKILL)
    work.join(LONGEST)
    assert unpack(small, tmp_path / "out").inodes == 2


def test_many_at_once(tmp_path: Path, small: Path) -> None:
    """One of them gets the place, and it is whole."""
    works = [Unpacking(small, tmp_path / "out", True) for _ in range(6)]
    for work in works:
        work.start()
    for work in works:
        work.join(LONGEST)
    errors = [work.error for work in works if work.error is not None]
    assert len(errors) == len(works) - 1
    assert all("is not empty" in str(error) for error in errors)
    assert rootfs.verify(tmp_path / "out", id_maps()).ok


def test_what_a_killed_one_has_left(root: Path, small: Path) -> None:
    out = root / "out"
    tree = holder_of(out) / "tree"
    tree.mkdir(parents=True)
    holder_of(out).chmod(0o2700)
    (tree / "out").symlink_to(root)
    (tree / "-rf\n").touch()
    (tree / "sealed").mkdir(mode=0)
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    unpack(small, out)
    assert sorted(os.listdir(root)) == ["out"]


@pytest.mark.parametrize("kind", ["link", "file", "foreign"])
def test_something_else_is_where_it_works(
    tmp_path: Path, small: Path, kind: str
) -> None:
    place, victim = holder_of(tmp_path / "out"), tmp_path / "victim"
    (victim / "tree").mkdir(parents=True)
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "file":
        place.touch()
    else:
        place.mkdir(mode=0o777)
        os.chown(place, 1000, 1000)
    refused(small, tmp_path / "out")
    assert (victim / "tree").exists()
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    else:
        place.unlink()


def test_names(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    for name in (
        "n" * 255,
        "relative/",
        "line\nbreak\udcff",
        "linked/below",
        "./dot",
        f"{tmp_path}//slashes//",
    ):
        rootfs.unpack(small, name, id_maps())
        assert Path(name, "file").read_text() == "data"
    assert (tmp_path / "real/below/file").exists()
    for name in ("", "/", ".", "..", "real/.", "real/..", "/proc/self/root/"):
        if name == "/proc/self/root/":
            continue
        with pytest.raises(RootfsError, match="not the name"):
            rootfs.unpack(small, name, id_maps())


def test_places_that_are_taken(tmp_path: Path, small: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    (tmp_path / "full/x").mkdir(parents=True)
    for name, reason in (
        ("link", "no directory"),
        ("dangling", "no directory"),
        ("file", "no directory"),
        ("full", "is not empty"),
        ("absent/below", "No such file or directory"),
        ("file/below", "Not a directory"),
    ):
        with pytest.raises(RootfsError, match=reason) as caught:
            unpack(small, tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
    assert os.listdir(empty) == []
    unpack(small, empty)
    assert stat.S_IMODE(empty.stat().st_mode) == 0o700
    assert empty.stat().st_uid == BASE


def test_a_place_that_is_taken_meanwhile(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def take(_: int) -> None:
        (out / "taken").mkdir(parents=True, exist_ok=True)

    with pytest.raises(RootfsError, match="was put there meanwhile"):
        unpack(large, out, progress=take)
    assert os.listdir(out) == ["taken"]


@pytest.mark.parametrize("any_root", ["tmpfs", "btrfs"], indirect=True)
def test_places_that_cannot_be_replaced(any_root: Path, small: Path) -> None:
    """A mount point and a subvolume are kept, as any directory."""
    point = any_root / "point"
    if any_root.parent.name == "btrfs":
        argv = ["btrfs", "-q", "subvolume", "create", str(point)]
    else:
        point.mkdir()
        (any_root / "source").mkdir()
        argv = ["mount", "--bind", str(any_root / "source"), str(point)]
    subprocess.run(argv, check=True)
    before = point.stat()
    assert unpack(small, point).inodes == 2
    assert os.path.samestat(point.stat(), before)
    assert os.listdir(point) == ["file"]
    if any_root.parent.name == "tmpfs":
        subprocess.run(["umount", point], check=True)
        assert os.listdir(any_root / "source") == ["file"]


@contextmanager
def mounted(point: Path, *options: str) -> Iterator[Path]:
    point.mkdir(mode=0o700)
    subprocess.run(["mount", *options, point], check=True)
    point.chmod(0o700)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def test_no_space(tmp_path: Path, large: Path) -> None:
    options = ("-t", "tmpfs", "-o", "size=2M", "tmpfs")
    with mounted(tmp_path / "tiny", *options) as tiny:
        reason = refused(large, tiny / "out")
        # It is smaller than what is in the pipes.
        assert (
            reason == SHORTAGES["free bytes"]
            or "No space left on device" in reason
            or "is the filesystem full?" in reason
        )
        assert os.listdir(tiny) == []


def test_a_filesystem_without_attributes(tmp_path: Path, small: Path) -> None:
    with mounted(tmp_path / "ramfs", "-t", "ramfs", "ramfs") as ramfs:
        assert "no trusted.* extended" in refused(small, ramfs / "out")
        with pytest.raises(NotIdmappableError) as caught:
            unpack(small, ramfs / "out", shifted=False)
        assert caught.value.reason == (
            "ramfs cannot be idmapped by this kernel; take another "
            "filesystem, or unpack it shifted"
        )
        assert os.listdir(ramfs) == []


@pytest.mark.needs("loop-devices")
def test_ext3(tmp_path: Path, small: Path) -> None:
    point = tmp_path / "ext3"
    point.mkdir(mode=0o700)
    mount_new("ext3", point)
    point.chmod(0o700)
    try:
        assert "type ext4" in refused(small, point / "out", shifted=False)
        assert unpack(small, point / "out").inodes == 2
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_read_only_filesystem(tmp_path: Path, small: Path) -> None:
    options = ("-t", "tmpfs", "-o", "ro", "tmpfs")
    (tmp_path / "ro").mkdir()
    subprocess.run(["mount", *options, tmp_path / "ro"], check=True)
    try:
        assert "Read-only" in refused(small, tmp_path / "ro/out")
    finally:
        subprocess.run(["umount", tmp_path / "ro"], check=True)


@pytest.mark.parametrize("program", ["tar", "gzip", "xz", "zstd"])
def test_a_program_is_missing(
    tmp_path: Path,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
) -> None:
    found = tmp_path / "bin"
    found.mkdir()
    others = {"cat", "unshare", "tar", *COMPRESSORS.values()} - {program}
    for name in others:
        (found / name).symlink_to(f"/usr/bin/{name}")
    suffixes = {value: key for key, value in COMPRESSORS.items()}
    if program in suffixes:
        small = compress(small, suffixes[program])
    which = partial(shutil.which, path=str(found))
    monkeypatch.setattr(shutil, "which", lambda name, **_: which(name))
    with pytest.raises(PrerequisiteError, match=f"^{program} is needed"):
        unpack(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_program_fails_and_does_not_say_why(
    tmp_path: Path,
    reachable_path: Path,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = compress(small, "gz")
    (reachable_path / "tar").symlink_to("/usr/bin/tar")
    script = reachable_path / "gzip"
    script.write_text('#!/bin/sh\n/usr/bin/gzip "$@"\nexit 3\n')
    script.chmod(0o755)
    which = partial(shutil.which, path=f"{reachable_path}:/usr/bin")
    monkeypatch.setattr(shutil, "which", lambda name, **_: which(name))
    reason = refused(archive, tmp_path / "out")
    assert reason == "gzip failed with exit code 3"


def test_what_removes_a_tree_is_killed(
    root: Path, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does so for want of memory; the next one removes the rest."""
    script = tmp_path / "bin/rm"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    data = small.read_bytes()
    small.write_bytes(data[:1024])
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(script.parent), prepend=":")
        with pytest.raises(RootfsError, match="is cut short") as caught:
            unpack(small, root / "out")
    (note,) = caught.value.__notes__
    assert note.endswith("tree is not removed: rm ended with -9")
    small.write_bytes(data)
    unpack(small, root / "out")
    assert os.listdir(root) == ["out"]


def test_power_is_lost_no_sooner_than_all_is_on_the_disk(
    tmp_path: Path, small: Path
) -> None:
    """All is synced before the tree gets its name."""
    seen = []

    def sync(fd: int) -> None:
        seen.append(sorted(os.listdir(f"/proc/self/fd/{fd}/tree")))
        assert not (tmp_path / "out").exists()

    with system_calls.acting("syncfs", sync):
        unpack(small, tmp_path / "out")
    assert seen == [["file"]]
    with system_calls.failing("syncfs", errno.EIO):
        assert refused(small, tmp_path / "other") == "Input/output error"


@pytest.mark.parametrize("removed", [False, True])
def test_who_waits_gets_the_place(
    tmp_path: Path, small: Path, removed: bool
) -> None:
    """It gets it as soon as it is free, also if the lock has gone."""
    place = holder_of(tmp_path / "out")
    place.mkdir(mode=0o700)
    fd = os.open(place, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def leave() -> None:
        if removed:
            place.rmdir()
        os.close(fd)

    timer = threading.Timer(0.3, leave)
    timer.start()
    assert unpack(small, tmp_path / "out").inodes == 2
    timer.join()


def test_who_could_replace_archive_or_tree(
    tmp_path: Path, small: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    archive = home / "archive"
    archive.write_bytes(small.read_bytes())
    (home / "link").symlink_to(archive)
    assert "link is a symbolic link" in refused(home / "link", home / "out")
    os.chown(home, 1000, 1000)
    reason = f"its parent {home} belongs to user 1000"
    assert reason in refused(archive, tmp_path / "out")
    assert reason in refused(small, home / "out")
    os.chown(home, 0, 0)
    home.chmod(0o777)
    reason = f"other users may write to its parent {home}"
    assert reason in refused(archive, tmp_path / "out")
    assert reason in refused(small, home / "out")
    assert {each.name for each in home.iterdir()} == {"archive", "link"}
