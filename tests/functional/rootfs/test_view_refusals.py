# SPDX-License-Identifier: Apache-2.0
"""Views that cannot be: refused with the reason, nothing is mounted."""

import errno
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import (
    ExposedTreeError,
    NotIdmappableError,
    RootfsError,
)
from lxc_userns.rootfs.views import source as backing
from lxc_userns.rootfs.views import strategies
from lxc_userns.spec.strategy import Strategy
from tests import system_calls
from tests.functional import guest
from tests.functional.conftest import FilesystemFactory
from tests.functional.descriptors import own_descriptors

MAPS = guest.id_maps()


@pytest.fixture
def tree(root: Path) -> Path:
    """A tree that can be viewed."""
    path = root / "tree"
    path.mkdir()
    (path / "file").touch()
    return path


@pytest.fixture
def view(reachable_path: Path) -> Path:
    """An empty directory."""
    path = reachable_path / "view"
    path.mkdir()
    return path


def refused(
    source: Path | str,
    target: Path | str,
    reason: str,
    kind: type[RootfsError] = RootfsError,
) -> None:
    """Refused in one line, and no mount and no descriptor is left."""
    before = Path("/proc/self/mountinfo").read_text()
    descriptors = own_descriptors()
    with pytest.raises(RootfsError, match=reason) as caught:
        rootfs.mount_idmapped(source, target, MAPS)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert own_descriptors() == descriptors


@pytest.mark.parametrize("kind", ["ext2", "ext3"])
def test_ext3_is_named_with_its_fix(
    loop_filesystem: FilesystemFactory, view: Path, kind: str
) -> None:
    mounted = loop_filesystem(kind)
    (mounted / "tree").mkdir()
    fix = "mount it with type ext4"
    refused(
        mounted / "tree",
        view,
        f"{kind} cannot be idmapped by this kernel; {fix}",
        NotIdmappableError,
    )
    assert choose(mounted / "tree") == Strategy.CHOWN
    # And so it is.
    image = mounted.with_suffix(".image")
    guest.call("umount", mounted)
    guest.call("mount", "-t", "ext4", "-o", "loop", image, mounted)
    assert choose(mounted / "tree") == Strategy.IDMAPPED
    with guest.mounted(mounted / "tree", view, MAPS):
        guest.out(MAPS, "touch", view / "file")
    assert (mounted / "tree/file").stat().st_uid == 0


def choose(path: Path) -> str:
    with backing.open_source(str(path)) as found:
        return strategies.choose(Strategy.AUTO, found, MAPS).strategy


def test_an_overlay_is_named(root: Path, view: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (root / name).mkdir()
    options = ",".join(
        f"{name}dir={root}/{name}" for name in ("lower", "upper", "work")
    )
    merged = root / "merged"
    guest.call("mount", "-t", "overlay", "none", "-o", options, merged)
    try:
        refused(
            merged,
            view,
            "overlay cannot be idmapped .*; its layers can be: take its "
            "lower directory, and the strategy overlay",
            NotIdmappableError,
        )
        assert choose(merged) == Strategy.CHOWN
    finally:
        guest.call("umount", merged)


def test_another_filesystem_without_support(root: Path, view: Path) -> None:
    ramfs = root / "ramfs"
    ramfs.mkdir()
    guest.call("mount", "-t", "ramfs", "none", ramfs)
    try:
        refused(
            ramfs,
            view,
            "ramfs cannot be idmapped by this kernel; take another "
            "filesystem, or the strategy chown",
            NotIdmappableError,
        )
    finally:
        guest.call("umount", ramfs)


def test_what_is_idmapped_already(
    tree: Path, view: Path, reachable_path: Path
) -> None:
    (tree / "inner").mkdir()
    target = reachable_path / "target"
    target.mkdir()
    with guest.mounted(tree, view, MAPS):
        refused(
            view,
            target,
            f"seen through a view, the idmapped mount on {view}; give the "
            "directory which that shows",
        )
        # What is below is the container's to replace.
        refused(view / "inner", target, f"its parent {view} belongs to user")


def test_what_is_shifted_already(tree: Path, view: Path) -> None:
    rootfs.shift(tree, MAPS)
    refused(tree, view, "is shifted on disk, and would be shifted twice")
    with pytest.raises(RootfsError, match="would be shifted twice"):
        rootfs.mount_overlay(tree, tree.parent / "state", view, MAPS)
    rootfs.unshift(tree)
    with guest.mounted(tree, view, MAPS):
        pass


def test_what_others_can_reach(tree: Path, view: Path) -> None:
    open_tree = view.parent / "tree"
    open_tree.mkdir()
    refused(open_tree, view, "chmod 0700 ", ExposedTreeError)
    assert choose(open_tree) == Strategy.CHOWN
    with pytest.raises(ExposedTreeError):
        rootfs.mount_overlay(open_tree, tree.parent / "state", view, MAPS)


CALL = """
import sys
from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.views import idmapped
from tests.functional import guest
# The only ID that there is.
idmapped._rows = lambda _: [(0, 0, 1)]
try:
    rootfs.mount_idmapped(sys.argv[1], sys.argv[2], guest.id_maps())
except RootfsError as err:
    print(type(err).__name__, err)
"""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--user"],
            "RootfsError .*: its mount cannot be copied: no permission, "
            "CAP_SYS_ADMIN is needed in the user namespace that this mount "
            "namespace belongs to",
        ),
        (
            ["--user", "--mount"],
            "NotIdmappableError .*: no permission to idmap ext4: "
            "CAP_SYS_ADMIN is needed in the user namespace that mounted it",
        ),
    ],
)
def test_no_permission(
    tree: Path, view: Path, options: list[str], reason: str
) -> None:
    done = subprocess.run(
        [
            *("unshare", *options, "--map-root-user"),
            *(sys.executable, "-c", CALL, str(tree), str(view)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert re.match(reason, done.stdout), done


@pytest.mark.parametrize(
    "call", [system_calls.OPEN_TREE, system_calls.MOUNT_SETATTR]
)
def test_kernels_without_it(tree: Path, view: Path, call: int) -> None:
    with system_calls.failing(call):
        refused(
            tree,
            view,
            r"no idmapped mounts, Linux 5\.12 has; take the strategy chown",
            NotIdmappableError,
        )
        assert choose(tree) == Strategy.CHOWN


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EBUSY, "ext4 is busy: files are open for writing"),
        (errno.ENOMEM, "ext4 cannot be idmapped: Cannot allocate memory"),
    ],
)
def test_other_reasons(
    tree: Path, view: Path, number: int, reason: str
) -> None:
    with system_calls.failing(system_calls.MOUNT_SETATTR, number):
        refused(tree, view, reason, NotIdmappableError)


def test_sources_that_are_neither_directory_nor_image(
    root: Path, view: Path
) -> None:
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    for name in ("fifo", "null", "socket"):
        refused(root / name, view, "neither a directory nor a disk image")
    refused(root / "absent", view, "No such file or directory")
    refused(root / "null/x", view, "Not a directory")
    refused("", view, "No such file or directory")
    (root / "dangling").symlink_to("nowhere")
    refused(root / "dangling", view, "No such file or directory")
    (root / "loop").symlink_to("loop")
    refused(root / "loop", view, "Too many levels of symbolic links")
    refused("/", view, "is the root directory of this host")


def test_devices_are_not_even_opened(
    root: Path, view: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a thing as a watchdog starts when it is opened.
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(10, 130))
    opened: list[int] = []
    really = os.open

    def note(path: str, flags: int, *rest: int, **options: int) -> int:
        if not flags & os.O_PATH:
            opened.append(flags)
        return really(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", note)
    refused(root / "device", view, "neither a directory nor a disk image")
    assert opened == []


Target = Callable[[Path], Path | str]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (lambda view: view.parent / "absent", "No such file or directory"),
        (lambda view: "", "No such file or directory"),
        (lambda view: "/", "something is mounted there already"),
        (lambda view: "/proc", "something is mounted there already"),
    ],
)
def test_targets_that_cannot_be_mounted_on(
    tree: Path, view: Path, target: Target, reason: str
) -> None:
    refused(tree, target(view), reason)


def test_targets_of_other_kinds(tree: Path, view: Path) -> None:
    (view.parent / "file").touch()
    refused(tree, view.parent / "file", "Not a directory")
    link = view.parent / "link"
    link.symlink_to(view)
    for each in (str(link), f"{link}/"):
        refused(tree, each, "is a symbolic link; give the directory")
        with pytest.raises(RootfsError, match="is a symbolic link"):
            rootfs.unmount(each)
    with guest.mounted(tree, view, MAPS):
        refused(tree, view, "mounted there already; unmount it first")
    with guest.mounted(tree, view.parent / "link/../view", MAPS):
        assert guest.mountinfo(view)


def test_what_is_no_view_is_not_unmounted(
    root: Path, tree: Path, view: Path
) -> None:
    with pytest.raises(RootfsError, match="nothing is mounted there"):
        rootfs.unmount(view)
    with pytest.raises(RootfsError, match="nothing is mounted there"):
        rootfs.unmount("/")
    with pytest.raises(RootfsError, match="No such file"):
        rootfs.unmount(view / "absent")
    guest.call("mount", "-t", "tmpfs", "none", view)
    with pytest.raises(RootfsError, match=r"is no view; see umount\(8\)"):
        rootfs.unmount(view)
    guest.call("umount", view)
    (view / "inner").mkdir()
    guest.call("mount", "-t", "tmpfs", "none", view / "inner")
    with guest.mounted(tree, view.parent / "other", MAPS) as other:
        (tree / "inner").mkdir()
        guest.call("mount", "-t", "tmpfs", "none", other / "inner")
        with pytest.raises(RootfsError, match=f"unmount {other}/inner first"):
            rootfs.unmount(other)
        guest.call("umount", other / "inner")
        fd = os.open(other, os.O_RDONLY)
        with pytest.raises(RootfsError, match="busy: a process works in it"):
            rootfs.unmount(other)
        assert guest.mountinfo(other)
        os.close(fd)
