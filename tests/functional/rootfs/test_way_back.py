# SPDX-License-Identifier: Apache-2.0
"""A shift that cannot finish is refused before, or taken back."""

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.shifting.journal import JOURNAL
from tests import system_calls
from tests.functional import guest, images
from tests.functional.capabilities import require
from tests.functional.conftest import remove_tree
from tests.functional.rootfs import golden
from tests.functional.rootfs.kill import run_and_kill

A = "0:100000:65536"
B = "0:300000:5001"
OVERLAP = "0:1000:65536"


def shift(path: Path, text: str = A) -> rootfs.ShiftReport:
    return rootfs.shift(path, golden.maps(text), workers=1)


def unshift(path: Path) -> rootfs.ShiftReport | None:
    # The very last change takes the state away, and all is done then.
    try:
        return rootfs.unshift(path, workers=1)
    except RootfsError as err:
        if err.reason != "it was not shifted":
            raise
        return None


def snapshot(root: Path) -> golden.Snapshot:
    """Look at a tree, but for the block that ext4 keeps for attributes."""
    return {
        path: replace(each, rest=(each.rest[0], each.rest[1], *each.rest[3:]))
        for path, each in golden.snapshot(root).items()
    }


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[Path]:
    """Make an ext4 whose inodes have hardly room for attributes."""
    require("ext4")
    path = tmp_path / "mounted"
    path.mkdir()
    image = images.make_image("ext4", tmp_path / "image", 32, "-b", "1024")
    guest.call("mount", "-o", "loop,strictatime", image, path)
    (path / "tree").mkdir()
    (path / "lost+found").rmdir()
    yield path / "tree"
    remove_tree(path)


def fill(path: Path) -> None:
    """Leave no room, neither for an attribute nor for a longer one."""
    for size in (100, 10, 1):
        for number in count():
            name = f"trusted.{size:03}{number:02}"
            if not can_set(path, name, b"x" * size):
                break
    for name in filter(re.compile("trusted.[0-9]").match, os.listxattr(path)):
        while can_set(path, name, os.getxattr(path, name) + b"xxxx"):
            pass


def can_set(path: Path, name: str, value: bytes) -> bool:
    try:
        os.setxattr(path, name, value)
    except OSError:
        return False
    return True


def make_full(root: Path, name: str, *, mode: int = 0o4755) -> Path:
    path = root / name
    path.write_text(name)
    os.chown(path, 5, 5)
    path.chmod(mode)
    fill(path)
    with pytest.raises(OSError, match="No space"):
        os.setxattr(path, "trusted.more", b"x" * 40)
    return path


def make_full_with_capability(root: Path, name: str) -> Path:
    """One to which the version that names a root would just fit."""
    path = root / name
    path.write_text(name)
    os.setxattr(path, golden.CAPABILITY, golden.caps3(1000))
    fill(path)
    os.setxattr(path, golden.CAPABILITY, golden.CAPS)
    return path


def test_full_inode_is_shifted_all_the_same(little_room: Path) -> None:
    make_full(little_room, "suid")
    make_full(little_room, "both", mode=0o6711)
    make_full_with_capability(little_room, "caps")
    golden.set_flags(make_full(little_room, "flagged"), golden.IMMUTABLE)
    before = snapshot(little_room)
    shift(little_room)
    after = snapshot(little_room)
    owner = golden.ids(A)
    assert golden.without_notes(after) == golden.expected(before, owner, owner)
    unshift(little_room)
    assert snapshot(little_room) == before


@pytest.mark.parametrize("text", [A, OVERLAP])
def test_no_room_for_the_capability_itself(
    little_room: Path, text: str
) -> None:
    """It cannot be shifted, and so is as it was after the way back."""
    path = little_room / "caps"
    path.write_text("caps")
    os.setxattr(path, golden.CAPABILITY, golden.CAPS)
    fill(path)
    assert not can_set(path, golden.CAPABILITY, golden.caps3(1000))
    for number in range(30):
        (little_room / f"other{number}").touch()
    before = snapshot(little_room)
    with pytest.raises(RootfsError, match="no space left") as caught:
        shift(little_room, text)
    assert caught.value.path == str(path)
    assert "half-done" in caught.value.reason
    assert unshift(little_room) is not None
    assert snapshot(little_room) == before


@pytest.mark.parametrize("text", [A, OVERLAP])
@pytest.mark.parametrize("kind", ["device", "foreign", "unmapped"])
def test_no_room_for_a_note_that_stays(
    little_room: Path, text: str, kind: str
) -> None:
    """It is refused before the inode changes, and the rest taken back."""
    path = little_room / kind
    if kind == "device":
        os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(7, 99))
        os.chown(path, 5, 5)
    else:
        path.touch()
        caps = golden.caps3(golden.ids(text)(65535))
        value = caps if kind == "foreign" else golden.caps3(1000)
        os.setxattr(path, golden.CAPABILITY, value)
        os.chown(path, 5 if kind == "foreign" else golden.UNMAPPED, 5)
        os.setxattr(path, golden.CAPABILITY, value)
    fill(path)
    for number in range(30):
        (little_room / f"other{number}").touch()
    before = snapshot(little_room)
    with pytest.raises(RootfsError, match="no space left") as caught:
        shift(little_room, text)
    assert caught.value.path == str(path)
    assert "half-done" in caught.value.reason
    unshift(little_room)
    assert snapshot(little_room) == before


def test_no_room_on_the_root_directory(little_room: Path) -> None:
    """Looked at before, for it is where notes go that have no room."""
    make_full(little_room, "suid")
    fill(little_room)
    refused = 0
    for name in [n for n in os.listxattr(little_room) if "100" in n]:
        before = snapshot(little_room)
        try:
            shift(little_room)
            break
        except RootfsError as err:
            assert err.path == str(little_room)  # noqa: PT017
            assert "no space left" in err.reason  # noqa: PT017
            assert "half-done" not in err.reason  # noqa: PT017
        assert snapshot(little_room) == before
        os.removexattr(little_room, name)
        refused += 1
    assert 1 < refused < 9
    assert rootfs.verify(little_room).ok
    unshift(little_room)
    assert snapshot(little_room) == before


@pytest.mark.parametrize("text", [A, OVERLAP])
@pytest.mark.parametrize("then", ["shift", "unshift"])
def test_full_inodes_killed_before_every_change(
    little_room: Path, text: str, then: str
) -> None:
    """Each with what was left by a kill before in its way."""
    make_full(little_room, "suid")
    make_full_with_capability(little_room, "caps")
    golden.set_flags(make_full(little_room, "flagged"), golden.IMMUTABLE)
    os.link(little_room / "suid", little_room / "link")
    before = snapshot(little_room)
    owner = golden.ids(text)
    shifted = golden.expected(before, owner, owner)
    again, most = 3, 0
    for at in count(1):
        died = run_and_kill(partial(shift, little_room, text), at)
        most = max(most, notes_left(little_room))
        if then == "shift":
            # A second one, while the first one's note is still there.
            if run_and_kill(partial(shift, little_room, text), again):
                most = max(most, notes_left(little_room))
                again = again + 1 if again < at + 3 else 3
            shift(little_room, text)
            after = snapshot(little_room)
            assert golden.without_notes(after) == shifted, f"killed at {at}"
            assert golden.notes(after) == [(b"", golden.OURS + "state")]
        unshift(little_room)
        assert snapshot(little_room) == before, f"killed at {at}"
        if not died:
            break
    assert at > 15
    assert most > 0


def notes_left(root: Path) -> int:
    return sum(name.startswith(JOURNAL) for name in os.listxattr(root))


WAYS: dict[str, tuple[str | None, str]] = {
    "shift": (None, A),
    "overlap": (None, OVERLAP),
    "reshift": (A, B),
    "reshift-overlap": (OVERLAP, A),
    "overlap-both": (OVERLAP, "0:500:70001"),
}


@pytest.mark.parametrize("way", WAYS)
def test_back_killed_before_every_change(root: Path, way: str) -> None:
    """From what a kill has left half-done, a killed unshift goes back."""
    old, new = WAYS[way]
    golden.build(root, small=True)
    guest = snapshot(root)
    for at in count(2, 7):
        if old is not None:
            shift(root, old)
        if not run_and_kill(partial(shift, root, new), at):
            break
        for back_at in count(at % 5 + 1, 13):
            if not run_and_kill(partial(unshift, root), back_at):
                break
        assert snapshot(root) == guest, f"killed at {at}"
    assert at > 60


FOREIGN = {
    "shift": (None, A, 100005),
    "overlap": (None, OVERLAP, 66000),
    "reshift": (B, A, 100000),
    "to-overlap": (A, OVERLAP, 66000),
}


@pytest.mark.parametrize("way", FOREIGN)
def test_back_with_capabilities_of_elsewhere(root: Path, way: str) -> None:
    """They become nobody's on the way, and are in the end what they were."""
    old, new, number = FOREIGN[way]
    for name in ("one", "two", "three"):
        (root / name).touch()
        os.setxattr(root / name, golden.CAPABILITY, golden.caps3(number))
    os.chown(root / "two", 5, 5)
    # The owner does not tell whether these were shifted.
    for name, value in (
        ("four", golden.caps3(number)),
        ("five", golden.CAPS),
    ):
        (root / name).touch()
        os.chown(root / name, golden.UNMAPPED, 5)
        os.setxattr(root / name, golden.CAPABILITY, value)
    guest = snapshot(root)
    for at in count(1):
        if old is not None:
            shift(root, old)
        died = run_and_kill(partial(shift, root, new), at)
        for back_at in count(at % 3 + 1, 4):
            if not run_and_kill(partial(unshift, root), back_at):
                break
            if back_at % 8 == 1:
                run_and_kill(partial(shift, root, new), back_at)
        assert snapshot(root) == guest, f"killed at {at}"
        if not died:
            break
    assert at > 10


@pytest.mark.parametrize("way", ["reshift", "reshift-overlap", "overlap-both"])
def test_back_to_the_maps_before(root: Path, way: str) -> None:
    old, new = WAYS[way]
    assert old is not None
    golden.build(root, small=True)
    shift(root, old)
    before = snapshot(root)
    for at in count(2, 17):
        if not run_and_kill(partial(shift, root, new), at):
            break
        run_and_kill(partial(shift, root, old), at % 7 + 1)
        shift(root, old)
        after = snapshot(root)
        assert golden.without_notes(after) == golden.without_notes(before)
        assert rootfs.verify(root, golden.maps(old)).ok
        shift(root, old)
    assert at > 60


def test_there_and_back_and_there(root: Path) -> None:
    """Each dies a little later, and the next one goes the other way."""
    golden.build(root, small=True)
    before = snapshot(root)
    owner = golden.ids(OVERLAP)
    for at in count(3, 4):
        there = run_and_kill(partial(shift, root, OVERLAP), at)
        run_and_kill(partial(unshift, root), max(at - 2, 1))
        if not there:
            break
    shift(root, OVERLAP)
    after = snapshot(root)
    assert golden.without_notes(after) == golden.expected(before, owner, owner)
    unshift(root)
    assert snapshot(root) == before


def test_recheck_that_was_killed_is_not_taken_back(root: Path) -> None:
    golden.build(root, small=True)
    before = snapshot(root)
    shift(root, OVERLAP)
    after = snapshot(root)
    again = partial(
        rootfs.shift, root, golden.maps(OVERLAP), recheck=True, workers=1
    )
    for at in count(2):
        if not run_and_kill(again, at):
            break
        shift(root, OVERLAP)
        now = snapshot(root)
        assert golden.without_notes(now) == golden.without_notes(after)
    assert run_and_kill(again, at - 1)
    unshift(root)
    assert snapshot(root) == before


def test_back_needs_a_tree_that_no_one_reaches(
    root: Path, reachable_path: Path
) -> None:
    tree = reachable_path / "tree"
    tree.mkdir()
    reachable_path.chmod(0o755)
    for number in range(20):
        (tree / str(number)).touch()
    assert run_and_kill(partial(shift, tree), 12)
    with pytest.raises(RootfsError, match="half-done") as caught:
        rootfs.unshift(tree)
    assert "only root can" in caught.value.reason
    reachable_path.chmod(0o700)
    unshift(tree)
    assert {os.stat(each).st_uid for each in tree.iterdir()} == {0}


@pytest.mark.parametrize("any_root", ["xfs", "btrfs"], indirect=True)
@pytest.mark.parametrize("text", [A, OVERLAP])
def test_more_attributes_of_the_root_than_can_be_listed(
    any_root: Path, text: str
) -> None:
    golden.build(any_root, small=True)
    before = snapshot(any_root)
    names = [f"user.{number:03}{'n' * 200}" for number in range(400)]
    for at in (5, 25, 45, 65, 85, 1000):
        for name in names:
            os.setxattr(any_root, name, b"")
        with pytest.raises(OSError, match="too long"):
            os.listxattr(any_root)
        run_and_kill(partial(shift, any_root, text), at)
        unshift(any_root)
        for name in names:
            os.removexattr(any_root, name)
        assert snapshot(any_root) == before


def subvolume(*argv: object) -> None:
    words = ["btrfs", "-q", *map(str, argv)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def build_without_links(tree: Path) -> None:
    """Build a tree without links: a read-only one keeps the time of access."""
    golden.build(tree, small=True)
    (tree / "dangling").unlink()
    (tree / "other" / "link-dangling").unlink()


@pytest.fixture
def subvolumes(
    filesystem: Callable[[str], Path],
) -> Iterator[tuple[Path, Path]]:
    """Make a tree in a subvolume with a read-only snapshot below."""
    tree = filesystem("btrfs") / "subvolume"
    subvolume("subvolume", "create", tree)
    build_without_links(tree)
    (tree / ".snapshots" / "1").mkdir(parents=True)
    snapshot = tree / ".snapshots" / "1" / "snapshot"
    subvolume("subvolume", "snapshot", "-r", tree, snapshot)
    yield tree, snapshot
    subvolume("property", "set", "-f", snapshot, "ro", "false")
    remove_tree(snapshot)
    remove_tree(tree)


def test_read_only_subvolume(
    subvolumes: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    tree, below = subvolumes
    before = snapshot(tree)
    report = rootfs.shift(tree, golden.maps(A), dry_run=True, workers=2)
    assert report.read_only == 1
    assert report.read_only_paths == (str(below),)
    assert f"{below}: a read-only subvolume" in caplog.text
    for text in (A, OVERLAP):
        with pytest.raises(RootfsError, match="read-only subvolume") as caught:
            shift(tree, text)
        assert caught.value.path == str(below)
        assert "btrfs property set" in caught.value.reason
        assert "half-done" not in caught.value.reason
        assert snapshot(tree) == before
    subvolume("property", "set", below, "ro", "false")
    assert shift(tree).read_only == 0
    subvolume("property", "set", below, "ro", "true")
    # Its owners are shifted, and nothing is to be done there.
    assert rootfs.shift(tree, golden.maps(A), recheck=True).shifted == 0
    with pytest.raises(RootfsError, match="read-only subvolume"):
        unshift(tree)
    assert rootfs.verify(tree, golden.maps(A)).ok
    subvolume("property", "set", below, "ro", "false")
    unshift(tree)
    assert snapshot(tree) == before


def test_tree_that_is_a_read_only_subvolume(
    subvolumes: tuple[Path, Path],
) -> None:
    _, below = subvolumes
    before = snapshot(below)
    report = rootfs.shift(below, golden.maps(A), dry_run=True)
    assert report.read_only_paths == (str(below),)
    for path in (below, below / "other"):
        with pytest.raises(RootfsError, match="read-only subvolume") as caught:
            shift(path)
        assert caught.value.path == str(path)
        assert "half-done" not in caught.value.reason
    assert snapshot(below) == before


def test_empty_read_only_subvolume(subvolumes: tuple[Path, Path]) -> None:
    """Its own directory is the only one with an owner to shift."""
    tree, below = subvolumes
    subvolume("property", "set", below, "ro", "false")
    subvolume("subvolume", "create", below / "empty")
    subvolume("property", "set", below / "empty", "ro", "true")
    with pytest.raises(RootfsError, match="read-only subvolume") as caught:
        shift(tree)
    assert caught.value.path == str(below / "empty")
    subvolume("property", "set", below / "empty", "ro", "false")
    subvolume("subvolume", "delete", below / "empty")


def test_snapshot_made_while_it_was_shifted(
    subvolumes: tuple[Path, Path],
) -> None:
    """Not there when it is looked for, and the way back is free of it."""
    tree, below = subvolumes
    subvolume("property", "set", below, "ro", "false")
    before = snapshot(tree)
    for text in (A, OVERLAP):
        with (
            # All was looked at before the first change of an owner.
            system_calls.acting(
                "os.chown",
                lambda *_: subvolume("property", "set", below, "ro", "true"),
            ),
            pytest.raises(RootfsError, match="read-only") as caught,
        ):
            shift(tree, text)
        assert caught.value.path.startswith(str(below))
        assert "half-done" in caught.value.reason
        assert "unshift to go back" in caught.value.reason
        # Also if it is only walked in the end, and what is in it was done.
        unshift_or_open(tree, below)
        assert snapshot(tree) == before


def unshift_or_open(tree: Path, below: Path) -> None:
    try:
        unshift(tree)
    except RootfsError as err:
        # Part of it was shifted before.
        assert err.path == str(below)  # noqa: PT017
        assert "half-done" in err.reason  # noqa: PT017
        subvolume("property", "set", below, "ro", "false")
        unshift(tree)
    subvolume("property", "set", "-f", below, "ro", "false")
