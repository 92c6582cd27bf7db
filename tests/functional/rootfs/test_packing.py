# SPDX-License-Identifier: Apache-2.0
"""Trees, packed and unpacked again: with guest IDs whatever is on disk."""

import errno
import os
import socket
import stat
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lxc_userns import IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.linux.mount_api import MOUNT_ATTR_IDMAP
from lxc_userns.rootfs.archive import meter
from lxc_userns.rootfs.archive import pack as packing
from lxc_userns.rootfs.archive.contents import Contents
from lxc_userns.rootfs.shifting.state import STATE
from lxc_userns.rootfs.views import source, strategies
from tests import system_calls
from tests.functional.conftest import remove_tree
from tests.functional.rootfs import golden
from tests.functional.rootfs.archives import BASE, id_maps
from tests.functional.rootfs.test_unpacking import WIDE, plain

pytestmark = pytest.mark.needs("mounts")

ELSEWHERE = f"0:300000:{golden.UNMAPPED + 1}"
ARCHIVES = ("a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst", "a.tgz", "a.tzst")


def kept(seen: golden.Snapshot) -> golden.Snapshot:
    """Return what of a tree is in an archive of it."""
    return {
        path: replace(inode, flags=0)
        for path, inode in plain(seen).items()
        if not stat.S_ISSOCK(inode.mode)
    }


@pytest.fixture
def tree(root: Path) -> Iterator[Path]:
    yield from built(root)


def built(root: Path) -> Iterator[Path]:
    root.chmod(0o700)
    path = root / "tree"
    path.mkdir(mode=0o755)
    golden.build(path)
    yield path
    remove_tree(path)


def refused(reason: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(RootfsError, match=reason):
        rootfs.pack(*arguments, **options)


def test_it_is_the_inverse_of_unpack(any_root: Path) -> None:
    archive = any_root / "a.tar"
    for tree in built(any_root):
        before = golden.snapshot(tree)
        report = rootfs.pack(tree, archive)
        assert golden.snapshot(tree) == before
        assert (report.skipped, report.sockets, report.changed) == (3, 1, 0)
        rootfs.shift(tree, id_maps())
        shifted = golden.snapshot(tree)
        # Unmapped owners were kept, and are in it as they are on disk.
        assert rootfs.pack(tree, any_root / "b.tar") == report
        assert golden.snapshot(tree) == shifted
        assert (any_root / "b.tar").read_bytes() == archive.read_bytes()
    out = any_root / "out"
    made = rootfs.unpack(archive, out, None, shifted=False)
    assert (made.inodes, made.skipped) == (report.inodes, 0)
    assert kept(golden.snapshot(out)) == kept(before)
    elsewhere = any_root / "elsewhere"
    rootfs.unpack(archive, elsewhere, id_maps(ELSEWHERE))
    rootfs.pack(elsewhere, any_root / "c.tar")
    assert (any_root / "c.tar").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_form(tree: Path, name: str) -> None:
    archive = tree.parent / name
    report = rootfs.pack(tree, archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    out = tree.parent / "out"
    unpacked = rootfs.unpack(archive, out, None, shifted=False)
    assert unpacked.inodes == report.inodes


IDS = st.integers(0, 65535) | st.just(golden.UNMAPPED)
MAPS = [WIDE, ELSEWHERE, f"0:{2**30}:90000"]
FILES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=40).filter(
            lambda name: not {0, 47} & {*name} and name not in (b".", b"..")
        ),
        IDS,
        IDS,
        st.integers(0, 0o7777),
        st.binary(max_size=20),
    ),
    max_size=8,
    unique_by=lambda each: each[0],
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    files=FILES, text=st.sampled_from([WIDE, ELSEWHERE, f"0:{2**30}:90000"])
)
def test_whatever_the_maps(
    memory_root: Path, files: list[Any], text: str
) -> None:
    """Packed, unpacked for some ID maps, packed again: the same bytes."""
    memory_root.chmod(0o700)
    tree = memory_root / "tree"
    tree.mkdir()
    try:
        for name, uid, gid, mode, content in files:
            path = os.fsencode(tree) + b"/" + name
            with open(path, "wb") as stream:
                stream.write(content)
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            os.setxattr(path, golden.ACCESS, golden.FULL_ACL)
            os.utime(path, ns=(golden.TIME, golden.TIME))
        rootfs.pack(tree, memory_root / "a.tar")
        rootfs.unpack(memory_root / "a.tar", memory_root / "b", id_maps(text))
        rootfs.pack(memory_root / "b", memory_root / "b.tar")
        first, second = (memory_root / f"{n}.tar" for n in "ab")
        assert first.read_bytes() == second.read_bytes()
    finally:
        for name in ("tree", "b"):
            remove_tree(memory_root / name)
        for archive in memory_root.glob("*.tar"):
            archive.unlink()


def test_an_image(tree: Path, tmp_path: Path) -> None:
    image = tree.parent / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(128 << 20)
    golden.set_flags(tree / "immutable-directory", 0)
    argv = ["mkfs.ext4", "-q", "-d", str(tree), str(image)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    before = image.read_bytes()
    report = rootfs.pack(image, tree.parent / "a.tar")
    assert image.read_bytes() == before
    assert (report.skipped, report.sockets) == (3, 1)
    out = tree.parent / "out"
    rootfs.unpack(tree.parent / "a.tar", out, None, shifted=False)
    assert os.lstat(out / "plain").st_uid == 1000
    assert os.getxattr(out / "cap2", golden.CAPABILITY) == golden.CAPS


def test_capabilities_are_as_seen_inside(tree: Path) -> None:
    rootfs.shift(tree, id_maps())
    assert os.getxattr(tree / "cap2", golden.CAPABILITY) != golden.CAPS
    rootfs.pack(tree, tree.parent / "a.tar")
    data = (tree.parent / "a.tar").read_bytes()
    assert b"SCHILY.xattr.security.capability=" + golden.CAPS in data
    assert b"trusted." not in data
    assert b"PaxHeaders." not in data


def test_a_filesystem_that_cannot_be_idmapped(tree: Path) -> None:
    def refuse(
        _fd: int, _path: bytes, _flags: int, given: Any, _: int
    ) -> None:
        if given._obj.attr_set == MOUNT_ATTR_IDMAP:
            calls.append(given)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    calls: list[object] = []
    rootfs.pack(tree, tree.parent / "a.tar")
    with system_calls.acting(system_calls.MOUNT_SETATTR, refuse):
        rootfs.pack(tree, tree.parent / "b.tar")
    assert calls
    first, second = (tree.parent / f"{n}.tar" for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_an_owner_of_the_upper_half(tree: Path) -> None:
    os.chown(tree / "plain", 2**32 - 2, 2**31 + 5)
    rootfs.pack(tree, tree.parent / "a.tar")
    listed = subprocess.check_output(
        ["tar", "-tvf", tree.parent / "a.tar", "--numeric-owner", "./plain"],
        text=True,
    )
    assert f"{2**32 - 2}/{2**31 + 5}" in listed


def test_owners_that_cannot_be_told(tree: Path) -> None:
    rootfs.shift(tree, id_maps())
    (tree / "late").touch()
    archive = tree.parent / "a.tar"
    refused(r"1 inodes have guest IDs.*late; run rootfs shift", tree, archive)
    assert not archive.exists()


def test_a_lost_mark(tree: Path) -> None:
    before = tree.parent / "a.tar"
    rootfs.pack(tree, before)
    rootfs.shift(tree, id_maps())
    os.removexattr(tree, STATE)
    archive = tree.parent / "b.tar"
    refused(r"is no guest ID.*--uid-map 0:100000:COUNT", tree, archive)
    rootfs.pack(tree, archive, id_maps())
    assert archive.read_bytes() == before.read_bytes()


def test_other_maps_than_the_mark(tree: Path) -> None:
    rootfs.shift(tree, id_maps())
    maps: IdMaps = id_maps(ELSEWHERE)
    refused(
        "is shifted for .* as it says itself", tree, tree.parent / "a.tar",
        maps,
    )  # fmt: skip


@pytest.mark.parametrize("owner", [(0, 0), (BASE, 0), (300000, 300000)])
def test_maps_that_a_tree_without_a_mark_is_not_of(
    tree: Path, owner: tuple[int, int]
) -> None:
    """Owners would be taken for unmapped ones, or a shift advised."""
    os.chown(tree, *owner)
    archive = tree.parent / "a.tar"
    reason = f"belongs to {owner[0]}:{owner[1]}.* no mark .* or none if it"
    refused(reason, tree, archive, id_maps())
    assert not archive.exists()


def test_what_is_mounted_in_it_is_left_out(tree: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "none", str(tree / "shared")]
    subprocess.run(mount, check=True)
    try:
        (tree / "shared/outside").touch()
        rootfs.pack(tree, tree.parent / "a.tar")
    finally:
        subprocess.run(["umount", str(tree / "shared")], check=True)
    names = subprocess.check_output(["tar", "-tf", tree.parent / "a.tar"])
    assert b"./shared/\n" in names
    assert b"outside" not in names


def test_an_overlay_on_an_image_with_whiteouts(root: Path) -> None:
    """They are listed there, and cannot be looked up."""
    root.chmod(0o700)
    image = root / "image"
    (image / "below").mkdir(parents=True)
    for name in ("gone", "below/gone", "below/a\n*"):
        os.mknod(image / name, stat.S_IFCHR, 0)
    (image / "below/file").write_text("data")
    maps = id_maps()
    with (
        source.open_source(str(image)) as tree,
        strategies.overlaid(tree, maps, str(root / "state")) as view,
    ):
        report = packing.pack_view("/view", view, root / "a.tar", maps)
    out = root / "out"
    made = rootfs.unpack(root / "a.tar", out, None, shifted=False)
    assert (made.inodes, made.whiteouts) == (3, 0)
    assert report == rootfs.PackReport(3, 0, 0)
    assert os.listdir(out) == ["below"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_an_archive_that_exists(tree: Path, kind: str) -> None:
    archive = tree.parent / "a.tar"
    if kind == "file":
        archive.write_text("mine")
    elif kind == "directory":
        archive.mkdir()
    else:
        archive.symlink_to("nowhere")
    refused("is there already", tree, archive)
    assert sorted(p.name for p in tree.parent.iterdir()) == ["a.tar", "tree"]


def test_one_that_comes_meanwhile(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tree.parent / "a.tar"
    refused(
        "is there already", tree, archive,
        progress=lambda _: archive.write_text("mine") and None,
    )  # fmt: skip
    assert archive.read_text() == "mine"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_filesystem_without_nameless_files(
    tree: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    real_open, real_link = os.open, os.link

    def fail_open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real_open(path, flags, *rest, **more)

    def fail_link(*arguments: Any, **options: Any) -> None:
        if not has_links:
            raise PermissionError(1, "Operation not permitted")
        real_link(*arguments, **options)

    monkeypatch.setattr(os, "open", fail_open)
    monkeypatch.setattr(os, "link", fail_link)
    rootfs.pack(tree, tree.parent / "a.tar")
    refused("is there already", tree, tree.parent / "a.tar")
    assert sorted(p.name for p in tree.parent.iterdir()) == ["a.tar", "tree"]


@pytest.mark.parametrize("name", ["a", "a.zip", "a.tar.bz2"])
def test_a_name_that_tells_nothing(tree: Path, name: str) -> None:
    refused("does not say how to compress", tree, tree.parent / name)


def test_a_directory_of_others(tree: Path) -> None:
    place = tree.parent / "theirs"
    place.mkdir()
    os.chown(place, 1000, 1000)
    refused("belongs to user 1000, who could", tree, place / "a.tar")


@pytest.mark.parametrize(
    "name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst"]
)
def test_a_full_disk(memory_root: Path, name: str) -> None:
    memory_root.chmod(0o700)
    tree, small = memory_root / "tree", memory_root / "small"
    for path in (tree, small):
        path.mkdir()
    (tree / "data").write_bytes(os.urandom(4 << 20))
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1M,mode=700",
        "none",
        str(small),
    ]
    subprocess.run(mount, check=True)
    try:
        refused("there is no room for it", tree, small / name)
        assert [*small.iterdir()] == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_names_of_every_kind(root: Path) -> None:
    root.chmod(0o700)
    tree = root / "tree"
    tree.mkdir(mode=0o755)
    names = ["-rf", "--exclude=x", "@x", "a\nb", "\\n", "*", "[x]", " ", "#"]
    for name in names:
        (tree / name).write_text(name)
        os.mknod(tree / f"{name}node", stat.S_IFCHR, os.makedev(1, 3))
    for match in ("anode", "xnode", "xx"):
        (tree / match).touch()
    fd = os.open(tree, os.O_RDONLY)
    # More levels than Python has frames, and nearly as much of a path as tar
    # can unpack.
    for _ in range(1022):
        os.mkdir("ddd", dir_fd=fd)
        fd, old = os.open("ddd", os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
    os.close(fd)
    report = rootfs.pack(tree, root / "a.tar")
    assert report.skipped == len(names)
    out = root / "out"
    made = rootfs.unpack(root / "a.tar", out, None, shifted=False)
    assert made.inodes == report.inodes
    left = {each.name for each in out.iterdir()}
    assert left == {*names, "anode", "xnode", "xx", "ddd"}


def look_at_contents(root: int) -> None:
    Contents(root)


def measure(root: int) -> None:
    """Measure the tree as an unpacking does."""
    limits = {meter.BYTES: 1, meter.INODES: 1}
    found = meter.Meter(root, limits, lambda: None, lambda look: look())
    assert found._measure() >= 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"n" * 250, "n{78}"),
        (b"a\nb\xff" * 60, r"(a\\nb\\xff){9}"),
    ],
)
def test_a_path_that_is_too_long(root: Path, name: bytes, shown: str) -> None:
    root.chmod(0o700)
    tree = root / "tree"
    os.close(make_deep(tree, name, 17))
    refused(f"has a path of .* bytes, {shown}.* tar can unpack 4093", tree,
            root / "a.tar")  # fmt: skip
    assert not (root / "a.tar").exists()


def make_deep(tree: Path, name: bytes, levels: int) -> int:
    """Make a directory of as many levels; return a descriptor of the last."""
    tree.mkdir(mode=0o755)
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        fd, old = os.open(name, os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
    return fd


@pytest.mark.parametrize("look", [look_at_contents, measure])
def test_many_directories_far_below(
    memory_root: Path, look: Callable[[int], object]
) -> None:
    """Names are in memory, and not a path of 4 KiB for each."""
    fd = make_deep(memory_root / "tree", b"d" * 250, 15)
    for number in range(2000):
        os.mkdir(f"{number}", dir_fd=fd)
    os.close(fd)
    place = os.getcwd()
    root = os.open(memory_root / "tree", os.O_RDONLY)
    os.fchdir(root)
    tracemalloc.start()
    try:
        look(root)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        os.chdir(place)
        os.close(root)
    assert most < 1 << 20


def test_more_device_nodes_than_can_be_named(root: Path) -> None:
    root.chmod(0o700)
    tree = root / "tree"
    tree.mkdir()
    for number in range(5000):
        os.mknod(tree / f"{number:0>240}", stat.S_IFCHR, os.makedev(1, 3))
    refused("too many device nodes", tree, root / "a.tar")


def test_sockets_by_several_names(root: Path) -> None:
    root.chmod(0o700)
    tree = root / "tree"
    tree.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "s"))
    os.link(tree / "s", tree / "t")
    assert rootfs.pack(tree, root / "a.tar") == rootfs.PackReport(1, 0, 1)
