# SPDX-License-Identifier: Apache-2.0
"""Shifts that put files in the hands of users of the host, or devices."""

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lxc_userns import IdMaps, rootfs
from lxc_userns.exceptions import ExposedTreeError
from lxc_userns.linux import directory
from lxc_userns.rootfs.views import overlay
from tests.functional import guest
from tests.functional.rootfs import golden
from tests.functional.rootfs.kill import run_and_kill

BASE, OTHER = 1_900_000_000, 1_950_000_000


A = golden.maps(f"0:{BASE}:65536")
SMALLER = golden.maps(f"0:{OTHER}:1000")
NEEDS_TRANSIT = golden.maps("0:1000:65536")
REACHED = "that only root can reach: users of the host can reach it"


@pytest.fixture
def tree(reachable_path: Path) -> Path:
    """A shifted tree that all can reach, with programs of its own users."""
    path = reachable_path / "store/tree"
    path.mkdir(parents=True)
    for each in (reachable_path, path.parent, path):
        each.chmod(0o755)
    rootfs.shift(path, A)
    for number in (0, 1000):
        guest.out(A, "cp", "/usr/bin/id", path / str(number), user=0)
        os.chown(path / str(number), BASE + number, BASE + number)
        # As its user in the container does it.
        argv = ("chmod", "4755", path / str(number))
        guest.out(A, *argv, user=number)
    return path


def runs_as(program: Path) -> int:
    """The user that a user of the host is by running a program."""
    return int(guest.call(*guest.HOST_USER, program, "-u"))


def refused(tree: Path, action: Callable[[], object]) -> str:
    """Return the reason of a refusal before anything changes."""
    before = golden.snapshot(tree)
    with pytest.raises(ExposedTreeError, match=REACHED) as caught:
        action()
    assert caught.value.path == str(tree)
    assert golden.snapshot(tree) == before
    return caught.value.reason


def test_an_unshift_makes_no_user_of_the_host_root(tree: Path) -> None:
    assert (runs_as(tree / "0"), runs_as(tree / "1000")) == (BASE, BASE + 1000)
    reason = refused(tree, partial(rootfs.unshift, tree))
    assert runs_as(tree / "0") == BASE
    # What the error says helps.
    fix = f"chmod 0700 {tree.parent}"
    assert fix in reason
    assert rootfs.unshift(tree, dry_run=True).shifted == 3
    guest.call(*fix.split())
    rootfs.unshift(tree)
    assert os.stat(tree / "0").st_uid == 0
    # And this is why.
    tree.parent.chmod(0o755)
    assert runs_as(tree / "0") == 0


@pytest.mark.parametrize("unmapped", ["keep", "nobody"])
def test_maps_that_cover_less(tree: Path, unmapped: str) -> None:
    maps = golden.maps(f"0:{OTHER}:1000,65534:{OTHER + 1000}:1")
    shift = partial(rootfs.shift, tree, maps, unmapped=unmapped)
    refused(tree, shift)
    tree.parent.chmod(0o700)
    shift()
    assert os.stat(tree / "0").st_uid == OTHER
    there = {"keep": 1000, "nobody": OTHER + 1000}[unmapped]
    assert os.stat(tree / "1000").st_uid == there


def test_maps_that_cover_as_much_change_nothing(tree: Path) -> None:
    rootfs.shift(tree, golden.maps(f"0:{OTHER}:65536"))
    assert runs_as(tree / "0") == OTHER
    # Even the same again, in the face of what somebody has changed.
    os.chown(tree, 0, 0)
    rootfs.shift(tree, golden.maps(f"0:{OTHER}:65536"), recheck=True)


def test_a_range_on_the_way_is_not_the_containers_either(tree: Path) -> None:
    """It could be another container's, if a shift is interrupted there."""
    refused(tree, partial(rootfs.shift, tree, NEEDS_TRANSIT))
    other = tree.parent / "fresh"
    other.mkdir()
    refused(other, partial(rootfs.shift, other, NEEDS_TRANSIT))
    tree.parent.chmod(0o700)
    rootfs.shift(tree, NEEDS_TRANSIT)
    assert os.stat(tree / "1000").st_uid == 2000


@pytest.mark.parametrize("maps", [None, SMALLER])
def test_what_was_interrupted_is_not_resumed(
    tree: Path, maps: IdMaps | None
) -> None:
    """But taken back it is, for that leads to host IDs alone."""

    def go() -> object:
        if maps is None:
            return rootfs.unshift(tree, workers=1)
        return rootfs.shift(tree, maps, workers=1)

    tree.parent.chmod(0o700)
    assert run_and_kill(go, 6)
    state = rootfs.read_state(tree)
    assert state is not None
    assert state.work is not None
    tree.parent.chmod(0o755)
    refused(tree, go)
    refused(tree, partial(rootfs.shift, tree, golden.maps(f"0:{OTHER}:65536")))
    rootfs.shift(tree, A)
    assert rootfs.verify(tree, A).ok
    assert os.stat(tree / "1000").st_uid == BASE + 1000
    tree.parent.chmod(0o700)
    go()
    assert os.stat(tree / "1000").st_uid == 1000


def test_the_way_is_found_by_descriptor(tree: Path) -> None:
    """Another path to it, or another mount, tells no other story."""
    closed = tree.parent.parent / "closed"
    closed.mkdir()
    closed.chmod(0o700)
    point = closed / "point"
    point.mkdir()
    guest.call("mount", "--bind", tree, point)
    with pytest.raises(ExposedTreeError, match=f"reach it at {tree}"):
        rootfs.unshift(point)
    with (
        directory.opened(tree) as fd,
        pytest.raises(ExposedTreeError, match=REACHED),
    ):
        rootfs.shift(point, SMALLER, fd=fd)
    assert os.stat(tree / "1000").st_uid == BASE + 1000


def test_nosuid_does_for_as_long_as_it_is(tree: Path) -> None:
    guest.call("mount", "--bind", tree.parent, tree.parent)
    guest.call("mount", "-o", "remount,bind,nosuid", tree.parent)
    # The same is still there below the mount, which only root can get at.
    rootfs.unshift(tree)
    assert runs_as(tree / "0") == 1000


def test_an_upper_layer_goes_to_maps_that_cover_less(tree: Path) -> None:
    """It is in a directory of root's alone, which will do."""
    image, state = tree.parent / "image", tree.parent / "state"
    image.mkdir()
    image.chmod(0o755)
    tree.parent.chmod(0o700)
    with guest.mounted(image, tree.parent / "view", A, state) as view:
        (view / "file").touch()
        os.chown(view / "file", BASE + 5000, BASE)

    def shift(path: str, fd: int, maps: IdMaps) -> object:
        return rootfs.shift(path, maps, fd=fd)

    tree.parent.chmod(0o755)
    with directory.opened(state) as fd:
        overlay.reshift(fd, SMALLER, shift)
    assert os.stat(state / "upper/file").st_uid == 5000


# Devices of the host.


@pytest.fixture
def device(reachable_path: Path) -> Iterator[Path]:
    """A disk of the host, with a secret, that no container was given."""
    image = reachable_path.parent / f"{reachable_path.name}.image"
    image.write_bytes(b"secret".ljust(1 << 20, b"\0"))
    image.chmod(0o600)
    path = Path(guest.call("losetup", "--find", "--show", image))
    yield path
    guest.call("losetup", "--detach", path)
    image.unlink()


def read_as(number: int, path: Path) -> bool:
    """Whether a user, in a group of the same number, can read a device."""
    argv = ("setpriv", f"--reuid={number}", f"--regid={number}")
    words = (*argv, "--clear-groups", "head", "--bytes=6", str(path))
    done = subprocess.run(words, capture_output=True, timeout=60)
    assert done.stdout in (b"", b"secret")
    return bool(done.stdout)


def is_sealed(path: Path) -> bool:
    st = path.lstat()
    return (st.st_uid, st.st_gid, st.st_mode & 0o077) == (0, 0, 0)


@pytest.fixture
def nodes(reachable_path: Path, device: Path) -> Path:
    """A tree that all can reach, on a mount without nodev, with devices."""
    path = reachable_path / "tree"
    path.mkdir()
    for each in (reachable_path, path):
        each.chmod(0o755)
    number = device.stat().st_rdev
    owners = {"root": (0, 0, 0o600), "disk": (0, 6, 0o660),
              "user": (1000, 1000, 0o4640), "open": (0, 0, 0o666),
              "unmapped": (70000, 70000, 0o660)}  # fmt: skip
    for name, (uid, gid, mode) in owners.items():
        os.mknod(path / name, stat.S_IFBLK | 0o600, number)
        os.chown(path / name, uid, gid)
        (path / name).chmod(mode)
    acl = golden.acl(
        (0x01, 6, golden.NO_ID), (0x02, 6, 1000), (0x04, 4, golden.NO_ID),
        (0x10, 6, golden.NO_ID), (0x20, 0, golden.NO_ID),
    )  # fmt: skip
    os.mknod(path / "acl", stat.S_IFBLK | 0o600, number)
    os.setxattr(path / "acl", golden.ACCESS, acl)
    os.mknod(path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (path / "null").chmod(0o666)
    os.link(path / "disk", path / "link")
    os.mkfifo(path / "fifo")
    return path


NODES = ("root", "disk", "user", "open", "unmapped", "acl", "null", "link")


def test_devices_are_the_hosts_and_roots(nodes: Path) -> None:
    before = golden.snapshot(nodes)
    dry = rootfs.shift(nodes, A, dry_run=True)
    assert golden.snapshot(nodes) == before
    report = rootfs.shift(nodes, A)
    assert dry == report
    # Root's is as it has to be.
    assert (report.inodes, report.devices, report.shifted) == (9, 7, 8)
    assert report.unmapped == 0
    for name in NODES:
        assert is_sealed(nodes / name)
        for number in (BASE, BASE + 6, BASE + 1000, 1000, 6, 70000):
            assert not read_as(number, nodes / name), (name, number)
    # Only devices are the host's.
    assert os.lstat(nodes / "fifo").st_uid == BASE
    assert rootfs.verify(nodes).ok
    shifted = golden.snapshot(nodes)
    assert rootfs.shift(nodes, A).devices == 7
    assert rootfs.shift(nodes, A, recheck=True).shifted == 0
    assert golden.snapshot(nodes) == shifted
    nodes.parent.chmod(0o700)
    assert rootfs.unshift(nodes).devices == 7
    assert golden.snapshot(nodes) == before


@pytest.mark.parametrize(
    "others", [(SMALLER,), (NEEDS_TRANSIT,), (A, NEEDS_TRANSIT, SMALLER)]
)
def test_devices_are_as_before_after_all(
    nodes: Path, others: tuple[IdMaps, ...]
) -> None:
    nodes.parent.chmod(0o700)
    before = golden.snapshot(nodes)
    for maps in others:
        rootfs.shift(nodes, maps)
        assert all(is_sealed(nodes / name) for name in NODES)
        assert rootfs.verify(nodes).ok
    rootfs.unshift(nodes)
    assert golden.snapshot(nodes) == before


@pytest.mark.parametrize("finished", [True, False])
def test_devices_that_an_older_version_gave_away(
    nodes: Path, finished: bool
) -> None:
    """It shifted them as anything else, and did not count them."""
    nodes.parent.chmod(0o700)
    before = golden.snapshot(nodes)
    rootfs.shift(nodes, A)
    for name in NODES:
        inode = before[b"/" + name.encode()]
        if golden.OURS + "device" in os.listxattr(nodes / name):
            os.removexattr(nodes / name, golden.OURS + "device")
        uid, gid = (
            each + BASE if each < 65536 else each
            for each in (inode.uid, inode.gid)
        )
        os.chown(nodes / name, uid, gid)
        (nodes / name).chmod(stat.S_IMODE(inode.mode))
    state = json.loads(os.getxattr(nodes, golden.OURS + "state"))
    del state["devices"], state["linked_outside"]
    os.setxattr(nodes, golden.OURS + "state", json.dumps(state).encode())
    nodes.parent.chmod(0o755)
    assert read_as(BASE + 6, nodes / "disk")
    st = (nodes / "disk").stat()
    os.utime(nodes / "disk", ns=(st.st_mtime_ns, st.st_mtime_ns))
    found = {each.path for each in rootfs.verify(nodes).findings}
    assert found == {str(nodes / name) for name in NODES}
    if finished:
        report = rootfs.shift(nodes, A)
        assert (report.shifted, report.devices) == (7, 7)
        assert all(is_sealed(nodes / name) for name in NODES)
        assert rootfs.verify(nodes).ok
    nodes.parent.chmod(0o700)
    rootfs.unshift(nodes)
    assert golden.snapshot(nodes) == before


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"0 0", b"-1 0 600", b"4294967295 0 600", b"0 0 9"]
)
def test_a_note_that_an_image_has_brought(
    nodes: Path, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is none of ours, and is in the way of nothing."""
    nodes.parent.chmod(0o700)
    os.mknod(nodes / "closed", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    before = golden.snapshot(nodes)
    for name in ("disk", "closed"):
        os.setxattr(nodes / name, golden.OURS + "device", value)
    rootfs.shift(nodes, A)
    assert is_sealed(nodes / "disk")
    # By whichever of its two names the directory lists first.
    assert re.search(f"{nodes}/(disk|link): a note", caplog.text)
    rootfs.unshift(nodes)
    assert f"{nodes}/closed: a note" in caplog.text
    assert golden.snapshot(nodes) == before


def test_a_note_that_was_damaged(
    nodes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The way back is open, and the node is still root's alone."""
    nodes.parent.chmod(0o700)
    rootfs.shift(nodes, A)
    os.setxattr(nodes / "disk", golden.OURS + "device", b"0 0")
    rootfs.unshift(nodes)
    assert is_sealed(nodes / "disk")
    # By whichever of its two names the directory lists first.
    assert re.search(f"{nodes}/(disk|link): a note", caplog.text)
    assert os.listxattr(nodes / "disk") == []


def test_whiteouts_of_an_overlay_are_no_devices(reachable_path: Path) -> None:
    """They have the number 0:0, which nothing drives, and go along."""
    image, state = reachable_path / "image", reachable_path / "state"
    image.mkdir()
    image.chmod(0o755)
    for name in ("one", "two"):
        (image / name).touch()
    reachable_path.chmod(0o700)
    view = reachable_path / "view"
    with guest.mounted(image, view, A, state):
        for name in ("one", "two"):
            (view / name).unlink()
    names = [state / "upper" / name for name in ("one", "two")]
    assert all(stat.S_ISCHR(name.lstat().st_mode) for name in names)
    reports = []

    def shift(path: str, fd: int, maps: IdMaps) -> object:
        reports.append(rootfs.shift(path, maps, fd=fd))
        return None

    other = golden.maps(f"0:{OTHER}:65536")
    with directory.opened(state) as fd:
        overlay.reshift(fd, other, shift)
    assert reports[0].devices == 0
    with guest.mounted(image, view, other, state):
        assert os.listdir(view) == []
