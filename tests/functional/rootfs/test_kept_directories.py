# SPDX-License-Identifier: Apache-2.0
"""An empty directory that is unpacked to stays what it is."""

import fcntl
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import ExposedTreeError, RootfsError
from lxc_userns.linux import inode_flags
from lxc_userns.rootfs.refusals import INTERRUPTED
from tests import system_calls
from tests.functional.rootfs import golden
from tests.functional.rootfs.archives import (
    BASE,
    DIRECTORY,
    both,
    craft,
    holder_of,
    id_maps,
    unpack,
)
from tests.functional.rootfs.conftest import Filesystem, make_root
from tests.functional.rootfs.sandbox import LONGEST, Unpacking

pytestmark = pytest.mark.needs("mounts")

ACL = golden.acl(
    (0x01, 7, golden.NO_ID),
    (0x02, 7, 1000),
    (0x04, 5, golden.NO_ID),
    (0x10, 7, golden.NO_ID),
    (0x20, 0, golden.NO_ID),
)
NOCOW = 0x00800000
PROJECT, PROJINHERIT = 42, 0x200


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return craft(
        tmp_path / "a.tar",
        ("./", {**DIRECTORY, "mode": 0o711}),
        ("etc", DIRECTORY),
        ("etc/file", {}),
        ("file", {"uid": 1000}),
    )


def names(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


TREE = ["etc", "etc/file", "file"]


@both
@pytest.mark.parametrize("owner", [(0, 0), (1000, 5)])
def test_what_the_directory_is(
    any_root: Path, archive: Path, shifted: bool, owner: tuple[int, int]
) -> None:
    any_root.chmod(0o700)
    out = any_root / "out"
    out.mkdir()
    os.setxattr(out, golden.ACCESS, ACL)
    os.setxattr(out, golden.DEFAULT, ACL)
    if any_root.parent.name != "tmpfs":
        os.setxattr(out, "user.note", b"value")
    os.chown(out, *owner)
    out.chmod(0o3770)
    before = golden.look_at(os.fsencode(out))
    report = unpack(archive, out, shifted=shifted)
    assert report.inodes == 4
    after = golden.look_at(os.fsencode(out))
    assert (after.number, after.mode) == (before.number, before.mode)
    base = BASE if shifted else 0
    assert (after.uid, after.gid) == (base, base)
    state = after.xattrs.pop(golden.OURS + "state", None)
    assert (state is not None, after.xattrs) == (shifted, before.xattrs)
    assert names(out) == TREE
    # What is handed down is not the archive's.
    for path in (out / "etc", out / "etc/file", out / "file"):
        assert os.listxattr(path) == []
    assert os.stat(out / "file").st_uid == base + 1000
    if shifted:
        assert rootfs.shift(out, id_maps()).shifted == 0


def get_project(path: Path) -> tuple[int, int]:
    """Flags and project ID (FS_IOC_FSGETXATTR)."""
    with golden.opened(path) as fd:
        found = fcntl.ioctl(fd, 0x801C581F, bytes(28))
    flags, _, _, project, *_ = struct.unpack("=5I8x", found)
    return flags, project


def set_project(path: Path) -> None:
    value = struct.pack("=5I8x", PROJINHERIT, 0, 0, PROJECT, 0)
    with golden.opened(path) as fd:
        fcntl.ioctl(fd, 0x401C5820, value)


def test_the_project_of_a_quota(filesystem: Filesystem, archive: Path) -> None:
    for root in make_root(filesystem("xfs")):
        out = root / "out"
        out.mkdir()
        set_project(out)
        unpack(archive, out)
        assert get_project(out)[0] & PROJINHERIT
        for path in (out, *out.rglob("*")):
            assert get_project(path)[1] == PROJECT
        assert get_project(out / "etc")[0] & PROJINHERIT
        assert names(root) == ["out", *(f"out/{each}" for each in TREE)]


def test_no_copy_on_write(filesystem: Filesystem, archive: Path) -> None:
    for root in make_root(filesystem("btrfs")):
        out = root / "out"
        argv = ["btrfs", "-q", "subvolume", "create", str(out)]
        subprocess.run(argv, check=True)
        with golden.opened(out) as fd:
            inode_flags.set(fd, NOCOW)
        number = out.stat().st_ino
        unpack(archive, out)
        for path in (out, out / "etc/file"):
            with golden.opened(path) as fd:
                assert golden.get_flags(fd) & NOCOW
        assert out.stat().st_ino == number


@pytest.mark.parametrize("flag", [golden.IMMUTABLE, golden.APPEND])
def test_one_that_cannot_be_written_to(
    root: Path, archive: Path, flag: int
) -> None:
    out = root / "out"
    out.mkdir()
    golden.set_flags(out, flag)
    for path in (out, out / "below"):
        with pytest.raises(RootfsError) as caught:
            unpack(archive, path)
        assert caught.value.reason == (
            "is immutable or append-only; chattr -i -a it first"
        )
        assert caught.value.path == str(out)
    golden.set_flags(out, 0)
    unpack(archive, out)


def test_nothing_is_changed_by_a_failure(
    any_root: Path, archive: Path
) -> None:
    out = any_root / "out"
    out.mkdir()
    os.chown(out, 1000, 1000)
    out.chmod(0o1777)
    broken = archive.with_name("broken.tar")
    broken.write_bytes(archive.read_bytes()[:1024] + b"!" * 512)
    before = golden.snapshot(any_root)
    for each in (broken, archive.with_name("absent")):
        with pytest.raises(RootfsError):
            unpack(each, out)
    after = golden.snapshot(any_root)
    assert after.keys() == before.keys()
    for path in after:
        assert after[path].mode == before[path].mode
        assert after[path].uid == before[path].uid
        assert after[path].xattrs == before[path].xattrs


def test_its_owner_and_others_are_shut_out_meanwhile(
    root: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = root / "out"
    out.mkdir()
    os.chown(out, 1000, 1000)
    out.chmod(0o777)
    seen = []

    def look(_: int) -> None:
        status = out.stat()
        seen.append((status.st_uid, status.st_gid, status.st_mode & 0o7777))

    unpack(archive, out, progress=look)
    assert set(seen) == {(0, 0, 0o700)}
    assert stat.S_IMODE(out.stat().st_mode) == 0o777


def test_one_that_is_full_is_not_touched(root: Path, archive: Path) -> None:
    out = root / "out"
    (out / "x").mkdir(parents=True)
    os.chown(out, 1000, 1000)
    seen = golden.snapshot(root)
    before = golden.change_times(root, seen)
    with pytest.raises(RootfsError, match="is not empty"):
        unpack(archive, out)
    assert golden.change_times(root, seen) == before
    assert names(out) == ["x"]


@pytest.mark.parametrize("any_root", ["ext4", "btrfs"], indirect=True)
def test_two_at_once(any_root: Path, archive: Path) -> None:
    """The one that waits finds what the other has made."""
    out = any_root / "out"
    out.mkdir()
    works = [Unpacking(archive, out, True) for _ in range(4)]
    for work in works:
        work.start()
    for work in works:
        work.join(LONGEST)
    errors = [work.error for work in works if work.error is not None]
    assert len(errors) == len(works) - 1
    assert all("is not empty" in str(error) for error in errors)
    assert names(out) == TREE
    assert rootfs.verify(out, id_maps()).ok


def test_its_own_mode_hides_no_unshifted_tree(
    reachable_path: Path, archive: Path
) -> None:
    """The container's root can change that."""
    reachable_path.chmod(0o755)
    out = reachable_path / "out"
    out.mkdir(mode=0o700)
    with pytest.raises(ExposedTreeError):
        unpack(archive, out, shifted=False)
    assert os.listdir(out) == []


class Killed(BaseException):
    """Ends a process for which it does not matter who catches what."""


@contextmanager
def dying_after(moment: int) -> Iterator[None]:
    """Die once so many names have come to their place."""
    left = moment

    def count(name: str, *_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def count_last(name: str, *_: object) -> None:
        if name == "whole":
            count(name)

    with (
        system_calls.acting("os.rename", count),
        system_calls.acting("os.rmdir", count_last),
    ):
        yield


@pytest.mark.parametrize("moment", range(1, 4))
def test_one_that_is_killed_as_it_comes_to_its_place(
    any_root: Path,
    archive: Path,
    moment: int,
) -> None:
    """No use of it until the next one has put the rest in place."""
    out = any_root / "out"
    out.mkdir()
    os.chown(out, 1000, 1000)
    out.chmod(0o750)
    with dying_after(moment), pytest.raises(Killed):
        unpack(archive, out)
    assert os.path.exists(out / holder_of(out).name / "whole")
    if moment < 3:
        with pytest.raises(RootfsError, match="unpack to it again"):
            rootfs.shift(out, id_maps())
        with pytest.raises(RootfsError, match="unpack to it again"):
            rootfs.mount_idmapped(out, "/mnt", id_maps())
    with pytest.raises(RootfsError, match="is not empty"):
        unpack(archive, out)
    assert names(out) == TREE
    status = out.stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (BASE, 0o750)
    assert INTERRUPTED not in os.listxattr(out)
    assert rootfs.verify(out, id_maps()).ok


def test_what_a_killed_one_has_left_before(root: Path, archive: Path) -> None:
    out = root / "out"
    out.mkdir()
    left = out / holder_of(out).name
    (left / "tree/half").mkdir(parents=True)
    left.chmod(0o700)
    (left / "before").write_text("1000 5 2750")
    os.chown(out, 0, 0)
    out.chmod(0o700)
    unpack(archive, out)
    assert names(out) == TREE
    assert out.stat().st_mode & 0o7777 == 0o2750


def test_an_archive_with_the_name_that_is_needed(
    root: Path, tmp_path: Path
) -> None:
    out = root / "out"
    out.mkdir(mode=0o750)
    name = holder_of(out).name
    hostile = craft(tmp_path / "h.tar", (f"{name}/whole", {}), ("a", {}))
    with pytest.raises(RootfsError, match="the archive has a file"):
        unpack(hostile, out)
    assert os.listdir(out) == []
    assert out.stat().st_uid == 0
    # Where there was none it harms no one.
    unpack(hostile, root / "new")


def test_a_stale_mark_is_not_kept(root: Path, archive: Path) -> None:
    """A shift of before says nothing of what is here now."""
    root.chmod(0o700)
    out = root / "out"
    out.mkdir()
    rootfs.shift(out, id_maps())
    unpack(archive, out, shifted=False)
    assert rootfs.read_state(out) is None
