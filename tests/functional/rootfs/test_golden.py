# SPDX-License-Identifier: Apache-2.0
"""Everything that an inode can have, shifted and back."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError, UnmappedIdsError
from tests import system_calls
from tests.functional.rootfs import golden
from tests.functional.rootfs.golden import UNMAPPED, mapped

Entry = tuple[int, int, int]
A = (0, 100000, 65536)
B = (0, 300000, 65536)


def id_maps(uid: Entry, gid: Entry | None = None) -> IdMaps:
    texts = [":".join(map(str, each)) for each in (uid, gid or uid)]
    return IdMaps(*map(IdMap.parse, texts))


def test_shift_and_back(any_root: Path) -> None:
    golden.build(any_root)
    if any_root.parent.name == "btrfs":
        inner = any_root / "other" / "subvolume"
        subprocess.run(
            ["btrfs", "-q", "subvolume", "create", inner], check=True
        )
        golden.build(inner)
    before = golden.snapshot(any_root)
    inodes = len({inode.number for inode in before.values()})
    unmapped = {
        inode.number
        for inode in before.values()
        if UNMAPPED in (inode.uid, inode.gid) or golden.ACCESS in inode.xattrs
    }
    # Not the same for both kinds, that they are not mixed up.
    gid = (0, 200000, 65536)
    dry = rootfs.shift(any_root, id_maps(A, gid), dry_run=True)
    assert golden.snapshot(any_root) == before
    report = rootfs.shift(any_root, id_maps(A, gid))
    shifted = golden.snapshot(any_root)
    assert golden.notes(shifted) == [(b"", golden.OURS + "state")]
    assert golden.without_notes(shifted) == golden.expected(
        before, mapped(A), mapped(gid)
    )
    assert dry == report
    assert (report.inodes, report.unmapped) == (inodes, len(unmapped))
    assert (report.uids, report.gids) == ((UNMAPPED,), (UNMAPPED,))
    assert report.shifted == len(moved_inodes(before, shifted))
    verified = rootfs.verify(any_root)
    assert (verified.ok, verified.inodes) == (True, inodes)
    with system_calls.never("os.listdir"):
        again = rootfs.shift(any_root, id_maps(A, gid), progress=refuse)
    assert (again.inodes, again.shifted) == (inodes, 0)
    assert again.unmapped == report.unmapped
    assert golden.snapshot(any_root) == shifted
    rootfs.unshift(any_root)
    assert golden.snapshot(any_root) == before


def refuse(_: int) -> None:
    pytest.fail("walked")


def moved_inodes(
    before: golden.Snapshot, after: golden.Snapshot
) -> set[tuple[int, int]]:
    after = golden.without_notes(after)
    return {i.number for path, i in before.items() if after[path] != i}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(None, (0, 1000, 65536), id="overlap"),
        pytest.param(A, B, id="reshift"),
        pytest.param(A, (0, 120000, 65536), id="reshift-overlap"),
        pytest.param(A, (0, 300000, 5001), id="reshift-smaller"),
        pytest.param((0, 1000, 65536), B, id="reshift-from-overlap"),
    ],
)
def test_other_maps(root: Path, old: Entry | None, new: Entry) -> None:
    golden.build(root)
    before = golden.snapshot(root)
    if old is not None:
        rootfs.shift(root, id_maps(old))
    rootfs.shift(root, id_maps(new))
    shifted = golden.snapshot(root)
    assert golden.notes(shifted) == [(b"", golden.OURS + "state")]
    assert golden.without_notes(shifted) == golden.expected(
        before, shift_uid(old, new), shift_uid(old, new)
    )
    assert rootfs.verify(root).ok
    assert rootfs.shift(root, id_maps(new)).shifted == 0
    rootfs.unshift(root)
    after = golden.snapshot(root)
    assert golden.notes(after) == []
    # 70000 is a host ID of the overlapping map, and comes back as guest ID.
    if 1000 not in (new[1], (old or new)[1]):
        assert after == before


def shift_uid(old: Entry | None, new: Entry) -> golden.Ids:
    fresh = mapped(new)
    if old is None or old[1] > UNMAPPED:
        return fresh
    # What the old map counted as shifted: 70000 is its guest ID 69000.
    shift, unshift = mapped(old), mapped((old[1], old[0], old[2]))
    return lambda number: fresh(unshift(shift(number)))


def test_unmapped_nobody(root: Path) -> None:
    golden.build(root)
    before = golden.snapshot(root)
    report = rootfs.shift(root, id_maps(A), unmapped="nobody")
    # With two whose ACLs name it.
    assert report.unmapped == 5

    def owner(number: int) -> int:
        return 165534 if number == UNMAPPED else mapped(A)(number)

    after = golden.snapshot(root)
    for path, inode in before.items():
        if golden.is_device(inode):
            assert after[path] == golden.sealed(inode)
            continue
        assert after[path].uid == owner(inode.uid)
        assert after[path].gid == owner(inode.gid)
        assert after[path].mode == inode.mode
    # The policy is for owners: an ACL grants no more than it did.
    assert (
        after[b"/acl"].xattrs
        == golden.expected(before, mapped(A), mapped(A))[b"/acl"].xattrs
    )
    # Those with the ACL still are.
    assert rootfs.shift(root, id_maps(A), unmapped="nobody").unmapped == 2


def test_unmapped_error_changes_nothing(any_root: Path) -> None:
    golden.build(any_root)
    before = golden.snapshot(any_root)
    times = golden.change_times(any_root, before)
    with pytest.raises(UnmappedIdsError, match="70000") as caught:
        rootfs.shift(any_root, id_maps(A), unmapped="error")
    assert (caught.value.uids, caught.value.gids) == ((UNMAPPED,), (UNMAPPED,))
    assert caught.value.path == str(any_root)
    assert golden.change_times(any_root, before) == times
    assert golden.snapshot(any_root) == before


def test_a_stricter_policy_counts_on_a_finished_tree(root: Path) -> None:
    (root / "file").touch()
    os.chown(root / "file", UNMAPPED, 0)
    assert rootfs.shift(root, id_maps(A)).unmapped == 1
    with pytest.raises(UnmappedIdsError, match=r"user IDs 70000$"):
        rootfs.shift(root, id_maps(A), unmapped="error")
    assert os.stat(root / "file").st_uid == UNMAPPED
    rootfs.shift(root, id_maps(A), unmapped="nobody")
    assert os.stat(root / "file").st_uid == 165534
    assert rootfs.shift(root, id_maps(A), unmapped="error").unmapped == 0


def test_nobody_has_to_be_mapped(root: Path) -> None:
    with pytest.raises(RootfsError, match="65534 is not mapped"):
        rootfs.shift(root, id_maps((0, 100000, 1000)), unmapped="nobody")
    with pytest.raises(ValueError, match="keep, nobody, error"):
        rootfs.shift(root, id_maps(A), unmapped="drop")


def damage_owner(root: Path) -> None:
    os.chown(root / "plain", 5, 100005)


def damage_acl(root: Path) -> None:
    os.setxattr(root / "acl-directory", golden.DEFAULT, golden.FULL_ACL)


def damage_capability(root: Path) -> None:
    os.setxattr(root / "cap2", golden.CAPABILITY, golden.CAPS)


def damage_root(root: Path) -> None:
    os.chown(root, 0, 100000)


def leave_pending(root: Path) -> None:
    os.setxattr(root / "suid", golden.OURS + "pending", b"4755 -")


@pytest.mark.parametrize(
    ("damage", "path", "reason"),
    [
        (damage_owner, "/plain", "owner 5:100005 should be 100005:100005"),
        (damage_acl, "/acl-directory", "an ACL names IDs"),
        (damage_capability, "/cap2", "file capabilities"),
        (damage_root, "", "not shifted"),
        (leave_pending, "/suid", "half-done"),
    ],
)
def test_verify_finds(
    root: Path, damage: Callable[[Path], None], path: str, reason: str
) -> None:
    golden.build(root)
    rootfs.shift(root, id_maps(A))
    damage(root)
    damaged = golden.snapshot(root)
    report = rootfs.verify(root)
    assert not report.ok
    # A hard link is found under each of its names.
    assert {f.path.rstrip("/") for f in report.findings} >= {f"{root}{path}"}
    assert all(reason in finding.reason for finding in report.findings)
    assert report.wrong == 1
    assert golden.snapshot(root) == damaged


def test_verify_for_other_maps(root: Path) -> None:
    golden.build(root)
    assert not rootfs.verify(root, id_maps(A)).ok
    with pytest.raises(RootfsError, match="give the ID maps"):
        rootfs.verify(root)
    rootfs.shift(root, id_maps(A))
    assert rootfs.verify(root, id_maps(A)).ok
    assert not rootfs.verify(root, id_maps(B)).ok


def test_somebody_chowned_the_root(root: Path) -> None:
    """Then the tree is walked again, and what was changed put right."""
    golden.build(root)
    rootfs.shift(root, id_maps(A))
    shifted = golden.snapshot(root)
    for path in (root, root / "plain"):
        os.chown(path, 0, 0)
    rootfs.shift(root, id_maps(A))
    after = golden.snapshot(root)
    assert after.pop(b"/plain").uid == 100000
    shifted.pop(b"/plain")
    assert golden.without_notes(after) == golden.without_notes(shifted)


def test_a_copy_is_known(root: Path) -> None:
    """The state goes where the tree goes: a snapshot booted elsewhere."""
    original, copy = root / "original", root / "copy"
    original.mkdir()
    golden.build(original, small=True)
    before = golden.snapshot(original)
    rootfs.shift(original, id_maps(A))
    subprocess.run(["cp", "-a", original, copy], check=True)
    rootfs.shift(copy, id_maps(B))
    moved = golden.snapshot(copy)
    for path, inode in golden.expected(before, mapped(B), mapped(B)).items():
        assert (moved[path].uid, moved[path].gid) == (inode.uid, inode.gid)
        assert moved[path].mode == inode.mode
        assert moved[path].xattrs.get(golden.DEVICE) == inode.xattrs.get(
            golden.DEVICE
        )
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", copy], stderr=-3)
    shutil.rmtree(copy)


def test_flags_stay_with_their_owner(root: Path) -> None:
    """Nothing of a shift goes on once it has returned."""
    (root / "dir").mkdir()
    file = root / "dir" / "file"
    for _ in range(60):
        file.write_text("x")
        golden.set_flags(file, golden.IMMUTABLE)
        rootfs.shift(root, id_maps(A))
        rootfs.unshift(root)
        with golden.opened(file) as fd:
            assert golden.get_flags(fd) & golden.IMMUTABLE
        subprocess.run(["chattr", "-i", file], check=True)
        file.unlink()
