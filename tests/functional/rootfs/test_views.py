# SPDX-License-Identifier: Apache-2.0
"""Idmapped views: what they show, and what is written through them."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import directory, mounts
from tests.functional import guest
from tests.functional.conftest import FilesystemFactory
from tests.functional.guest import BASE, COUNT, GID_OFFSET
from tests.functional.rootfs import golden
from tests.functional.rootfs.golden import (
    ACCESS,
    CAPABILITY,
    NO_ID,
    UNMAPPED,
    mapped,
)

MAPS = guest.id_maps()
NOBODY = 65534
NET_RAW = 1 << 13
WITH_NET_RAW = "cap_net_raw=ep"

Seen = dict[str, tuple[tuple[int, ...], int, int, dict[str, bytes]]]


def look_at(root: Path) -> Seen:
    """Owners and all that depends on them, of every inode."""
    found: Seen = {}
    for path in (root, *root.rglob("*")):
        st = path.lstat()
        names = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(root))] = (
            (st.st_dev, st.st_ino, st.st_nlink, st.st_mode),
            st.st_uid,
            st.st_gid,
            {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in names
                if not name.startswith("trusted.SGI_")
            },
        )
    return found


def seen_through(seen: Seen) -> Seen:
    """Return what a view has to show of what is on disk."""
    uid = mapped((0, BASE, COUNT), (UNMAPPED, NOBODY, 1))
    gid = mapped((0, BASE + GID_OFFSET, COUNT), (UNMAPPED, NOBODY, 1))
    # To an ACL, what is not mapped is no ID at all.
    ids = (
        mapped((0, BASE, COUNT), (UNMAPPED, NO_ID, 1)),
        mapped((0, BASE + GID_OFFSET, COUNT), (UNMAPPED, NO_ID, 1)),
    )
    return {
        path: (
            inode,
            uid(owner),
            gid(group),
            {
                name: golden.expected_xattr(name, value, *ids)
                for name, value in xattrs.items()
            },
        )
        for path, (inode, owner, group, xattrs) in seen.items()
    }


def test_a_view_shows_what_a_shift_would_make(
    any_root: Path, reachable_path: Path
) -> None:
    tree = any_root / "tree"
    tree.mkdir()
    golden.build(tree)
    disk = golden.snapshot(tree)
    with guest.mounted(tree, reachable_path / "view", MAPS) as view:
        assert golden.snapshot(tree) == disk
        seen = look_at(tree)
        assert look_at(view) == seen_through(seen)
    assert look_at(tree) == seen


def test_what_guests_write_lands_unshifted(
    any_root: Path, reachable_path: Path
) -> None:
    tree = any_root / "tree"
    tree.mkdir()
    (tree / "home").mkdir()
    os.chown(tree / "home", 1000, 1000)
    (tree / "old").touch()
    with guest.mounted(tree, reachable_path / "view", MAPS) as view:
        guest.out(MAPS, "touch", view / "by-root")
        guest.out(MAPS, "touch", view / "home/by-alice", user=1000)
        guest.out(MAPS, "chown", "12:34", view / "old")
        guest.out(MAPS, "setfacl", "-m", "u:7:r", view / "by-root")
        refused = guest.run(MAPS, "touch", view / "alice", user=1000)
        assert "Permission denied" in refused.stderr
        # The host's own root is nobody there.
        with pytest.raises(OSError, match="too large"):
            (view / "by-host").touch()
        acl = guest.out(MAPS, "getfacl", "-np", view / "by-root")
        assert "\nuser:7:r--\n" in acl
    owners = {
        path.name: (path.stat().st_uid, path.stat().st_gid)
        for path in (*tree.iterdir(), tree / "home/by-alice")
    }
    assert owners == {
        "home": (1000, 1000),
        "by-alice": (1000, 1000),
        "by-root": (0, 0),
        "old": (12, 34),
    }
    assert b"\x02\x00\x04\x00\x07\x00\x00\x00" in os.getxattr(
        tree / "by-root", ACCESS
    )


def test_set_ids_capabilities_and_acls_work_inside(
    any_root: Path, reachable_path: Path
) -> None:
    tree = any_root / "tree"
    tree.mkdir()
    for name in ("id", "cat"):
        shutil.copy(f"/usr/bin/{name}", tree)
    os.chown(tree / "id", 1000, 5)
    (tree / "id").chmod(0o6755)
    os.setxattr(tree / "cat", CAPABILITY, golden.CAPS)
    (tree / "secret").write_text("told")
    (tree / "secret").chmod(0o600)
    guest.call("setfacl", "-m", "u:500:r", tree / "secret")
    with guest.mounted(tree, reachable_path / "view", MAPS) as view:
        assert guest.out(MAPS, view / "id", "-u", user=7) == "1000"
        assert guest.out(MAPS, view / "id", "-g", user=7) == "5"
        status = guest.out(MAPS, view / "cat", "/proc/self/status", user=7)
        assert guest.effective(status) & NET_RAW
        assert guest.out(MAPS, "cat", view / "secret", user=500) == "told"
        denied = guest.run(MAPS, "cat", view / "secret", user=501)
        assert "Permission denied" in denied.stderr


def test_what_the_container_makes_is_stored_as_root_would(
    any_root: Path, reachable_path: Path
) -> None:
    tree = any_root / "tree"
    tree.mkdir()
    with guest.mounted(tree, reachable_path / "view", MAPS) as view:
        program = view / "cat"
        guest.out(MAPS, "cp", "/usr/bin/cat", program)
        guest.out(MAPS, "setcap", WITH_NET_RAW, program)
        status = guest.out(MAPS, program, "/proc/self/status", user=7)
        assert guest.effective(status) & NET_RAW
        # On the host, the capability is one in that user namespace alone.
        host = guest.call(*guest.HOST_USER, program, "/proc/self/status")
        assert guest.effective(host) == 0
    stored = os.getxattr(tree / "cat", CAPABILITY)
    # Version 2: 20 bytes without a root ID. This is why no one else may
    # reach the tree.
    assert (len(stored), stored[3]) == (20, 2)
    assert (tree / "cat").stat().st_uid == 0


def test_device_nodes_cannot_be_opened(
    root: Path, reachable_path: Path
) -> None:
    tree = root / "tree"
    tree.mkdir()
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.close(os.open(tree / "null", os.O_RDONLY))
    with (
        guest.mounted(tree, reachable_path / "view", MAPS) as view,
        pytest.raises(PermissionError),
    ):
        os.open(view / "null", os.O_RDONLY)


def test_other_mounts_do_not_turn_up_in_a_view(
    loop_filesystem: FilesystemFactory, reachable_path: Path
) -> None:
    # As everything is where systemd runs: what is mounted on one mount of a
    # peer group appears on all.
    shared = loop_filesystem("tmpfs")
    guest.call("mount", "--make-shared", shared)
    shared.chmod(0o700)
    inner = shared / "tree/inner"
    inner.mkdir(parents=True)
    mount = ("mount", "-t", "tmpfs", "none")
    guest.call(*mount, inner)
    (inner / "before").touch()
    with guest.mounted(shared / "tree", reachable_path / "view", MAPS) as view:
        assert list((view / "inner").iterdir()) == []
        guest.call(*mount, inner)
        (inner / "later").touch()
        assert list((view / "inner").iterdir()) == []
        guest.call(*mount, view / "inner")
        assert len(guest.mountinfo(inner)) == 2
        guest.call("umount", view / "inner")
    plain = reachable_path / "plain"
    plain.mkdir()
    with (
        directory.opened(shared / "tree") as source,
        directory.opened(reachable_path) as parent,
    ):
        mounts.bind(source, parent, "plain")
        guest.call(*mount, inner)
        (inner / "last").touch()
        assert list((plain / "inner").iterdir()) == []
        mounts.unmount(parent, "plain")
    guest.call("umount", inner, inner, inner)


def test_a_view_outlives_what_its_path_was(
    root: Path, reachable_path: Path
) -> None:
    tree = root / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    with guest.mounted(tree, reachable_path / "view", MAPS) as view:
        tree.rename(root / "moved")
        tree.symlink_to("/etc")
        assert (view / "file").read_text() == "x"
        guest.out(MAPS, "touch", view / "new")
        assert (root / "moved/new").exists()


def test_two_views_of_one_tree(root: Path, reachable_path: Path) -> None:
    tree = root / "tree"
    tree.mkdir()
    other = guest.id_maps(guest.OTHER_BASE)
    with (
        guest.mounted(tree, reachable_path / "one", MAPS) as one,
        guest.mounted(tree, reachable_path / "two", other) as two,
    ):
        guest.out(MAPS, "touch", one / "file")
        assert guest.out(other, "stat", "-c", "%u", two / "file") == "0"
        assert (two / "file").stat().st_uid == guest.OTHER_BASE


def test_sources_may_be_links(root: Path, reachable_path: Path) -> None:
    (root / "tree").mkdir()
    (root / "tree/file").touch()
    (root / "link").symlink_to("tree")
    with guest.mounted(root / "link", reachable_path / "view", MAPS) as view:
        assert (view / "file").exists()


def test_unmounting_again(root: Path, reachable_path: Path) -> None:
    (root / "tree").mkdir()
    view = reachable_path / "view"
    with guest.mounted(root / "tree", view, MAPS):
        (reachable_path / "way").symlink_to(reachable_path)
    with pytest.raises(RootfsError, match="nothing is mounted there"):
        rootfs.unmount(view)
    # A way there may have links in it.
    rootfs.mount_idmapped(root / "tree", reachable_path / "way/view", MAPS)
    rootfs.unmount(reachable_path / "way/view")
    assert guest.mountinfo(view) == []
