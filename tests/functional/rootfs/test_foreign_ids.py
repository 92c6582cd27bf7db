# SPDX-License-Identifier: Apache-2.0
"""IDs of ACLs and file capabilities that no entry covers, or that mislead."""

import os
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import UnmappedIdsError
from lxc_userns.rootfs.shifting import setuid_scan
from lxc_userns.rootfs.shifting.state import STATE, State, Work
from lxc_userns.rootfs.views import source, strategies
from lxc_userns.rootfs.views.strategies import ShiftOptions
from tests import system_calls
from tests.functional.rootfs import golden
from tests.functional.rootfs.kill import run_and_kill

UID, GID, COUNT = 100000, 200000, 65536
MAPS = IdMaps(IdMap.parse(f"0:{UID}:{COUNT}"), IdMap.parse(f"0:{GID}:{COUNT}"))
#: Guest and host IDs are the same in part.
OVERLAP = IdMaps(IdMap.parse("0:1000:65536"), IdMap.parse("0:1000:65536"))
FAR = IdMaps(IdMap.parse("0:400000:65536"), IdMap.parse("0:400000:65536"))
#: The root has another host ID than in MAPS, and most owners have the same.
NEW_ROOT = IdMaps(
    IdMap.parse(f"0:400000:1,1:{UID + 1}:{COUNT - 1}"),
    IdMap.parse(f"0:400000:1,1:{GID + 1}:{COUNT - 1}"),
)
#: The same, by a range on the way: two parts have changed places.
CROSSED = IdMaps(
    IdMap.parse(f"0:400000:1,11:{UID + 1}:10,1:{UID + 11}:10,"
                f"21:{UID + 21}:{COUNT - 21}"),
    NEW_ROOT.gid,
)  # fmt: skip

pytestmark = pytest.mark.needs("mounts")


@pytest.fixture
def tree(any_root: Path) -> Path:
    path = any_root / "tree"
    path.mkdir()
    any_root.chmod(0o700)
    return path


def look(tree: Path) -> dict[bytes, tuple[object, ...]]:
    """All but the blocks: an attribute may have needed one on ext4."""
    return {
        path: (each.mode, each.uid, each.gid, each.xattrs, each.rest[3:])
        for path, each in golden.snapshot(tree).items()
    }


def make(
    path: Path,
    name: str,
    value: bytes,
    mode: int = 0o755,
    owner: tuple[int, int] = (0, 0),
) -> Path:
    path.touch()
    os.chown(path, *owner)
    path.chmod(mode)
    os.setxattr(path, name, value)
    return path


def acl(uid: int, gid: int) -> bytes:
    return golden.acl(
        (0x01, 7, golden.NO_ID),
        (0x02, 6, uid),
        (0x04, 5, golden.NO_ID),
        (0x08, 4, gid),
        (0x10, 7, golden.NO_ID),
        (0x20, 0, golden.NO_ID),
    )


def capability(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, golden.CAPABILITY)
    except OSError:
        return None


#: Covered by the maps, and not, and in part.
OWNERS = [(0, 0), (70000, 70000), (70000, 5)]
OTHERS = {
    "user": (golden.ACCESS, acl(70000, 5), (70000,), ()),
    "group": (golden.ACCESS, acl(5, 70001), (), (70001,)),
    "both": (golden.ACCESS, acl(70000, 70001), (70000,), (70001,)),
    "root": (golden.CAPABILITY, golden.caps3(70000), (70000,), ()),
    # A host ID, on a file that was never shifted.
    "host": (golden.CAPABILITY, golden.caps3(UID), (UID,), ()),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_they_are_counted_and_an_error_if_they_shall(
    tree: Path, kind: str
) -> None:
    name, value, uids, gids = OTHERS[kind]
    path = make(tree / "file", name, value)
    os.link(path, tree / "again")
    before = look(tree)
    with pytest.raises(UnmappedIdsError) as caught:
        rootfs.shift(tree, MAPS, unmapped="error")
    assert (caught.value.uids, caught.value.gids) == (uids, gids)
    options = ShiftOptions(unmapped="error", recheck=True)
    with (
        source.open_source(str(tree)) as found,
        pytest.raises(UnmappedIdsError) as caught,
    ):
        strategies.STRATEGIES["idmapped"].prepare_tree(found, MAPS, options)
    assert (caught.value.uids, caught.value.gids) == (uids, gids)
    assert look(tree) == before
    dry = rootfs.shift(tree, MAPS, dry_run=True)
    report = rootfs.shift(tree, MAPS)
    assert (dry.unmapped, report.unmapped) == (1, 1)
    assert (report.uids, report.gids) == (uids, gids)
    for recheck in (False, True):
        assert rootfs.shift(tree, MAPS, recheck=recheck).unmapped == 1
    with pytest.raises(UnmappedIdsError) as caught:
        rootfs.shift(tree, MAPS, unmapped="error")
    assert (caught.value.uids, caught.value.gids) == (uids, gids)
    assert rootfs.unshift(tree).shifted == 2
    assert look(tree) == before


def test_what_a_tree_remembers_after_nobody(
    tree: Path,
) -> None:
    """The policy is for owners, and others are as unmapped as before."""
    (tree / "owner").touch()
    make(tree / "acl", golden.ACCESS, acl(70000, 5))
    both = make(tree / "both", golden.ACCESS, acl(5, 70001))
    os.link(both, tree / "again")
    for name in ("owner", "both"):
        os.chown(tree / name, 70002, 5)
    shift = partial(rootfs.shift, tree, MAPS, workers=1)
    assert shift(unmapped="nobody").unmapped == 3
    with system_calls.never("os.listdir"):
        for policy in ("nobody", "keep"):
            report = shift(unmapped=policy)
            seen = report.inodes, report.shifted, report.unmapped
            assert seen == (4, 0, 2)
    assert shift(unmapped="nobody", recheck=True).unmapped == 2
    with pytest.raises(UnmappedIdsError) as caught:
        shift(unmapped="error")
    assert (caught.value.uids, caught.value.gids) == ((70000,), (70001,))
    # A policy that keeps owners may have kept this one.
    os.chown(tree / "owner", 70002, 5)
    assert shift(recheck=True).unmapped == 3
    assert shift(unmapped="nobody").shifted == 1
    assert os.stat(tree / "owner").st_uid == UID + 65534


def test_what_a_tree_remembers_of_a_shift_that_was_killed(tree: Path) -> None:
    for number in range(5):
        make(tree / f"acl{number}", golden.ACCESS, acl(70000, 5))
        make(tree / f"caps{number}", golden.CAPABILITY, golden.caps3(UID))
        os.chown(tree / f"acl{number}", 70000, 5)
    shift = partial(rootfs.shift, tree, MAPS, unmapped="nobody", workers=1)
    assert run_and_kill(shift, 20)
    shift()
    assert shift().unmapped == 10


@pytest.mark.parametrize("pending", [b"", b"x", b"- -", b"755 -"])
def test_a_note_on_the_inode_hides_nothing(tree: Path, pending: bytes) -> None:
    path = make(tree / "file", golden.CAPABILITY, golden.caps3(UID))
    os.setxattr(path, golden.OURS + "pending", pending)
    with pytest.raises(UnmappedIdsError) as caught:
        rootfs.shift(tree, MAPS, unmapped="error")
    assert caught.value.uids == (UID,)
    assert rootfs.shift(tree, MAPS).unmapped == 1
    assert capability(path) is None
    rootfs.unshift(tree)
    assert capability(path) == golden.caps3(UID)


def test_of_directories_and_defaults(tree: Path) -> None:
    below = tree / "below"
    below.mkdir()
    os.setxattr(below, golden.DEFAULT, acl(70000, 5))
    os.setxattr(tree, golden.ACCESS, acl(5, 70001))
    report = rootfs.shift(tree, MAPS)
    assert report.unmapped == 2
    assert (report.uids, report.gids) == ((70000,), (70001,))


@pytest.mark.parametrize("maps", [MAPS, OVERLAP])
@pytest.mark.parametrize("mode", [0o755, 0o4755])
@pytest.mark.parametrize("owner", OWNERS)
def test_a_capability_of_the_host_range_does_not_become_the_hosts(
    tree: Path, maps: IdMaps, mode: int, owner: tuple[int, int]
) -> None:
    """It would count for all users of the host after shift and unshift.

    Also where no entry covers the owner, which then does not tell if it is
    the container's.
    """
    # A host ID that is no guest ID.
    root = maps.uid.entries[0].host_ids[-1]
    value = golden.caps3(root)
    paths = [make(tree / "file", golden.CAPABILITY, value, mode, owner)]
    paths.append(make(tree / "linked", golden.CAPABILITY, value, mode, owner))
    os.link(paths[1], tree / "again")
    honest = make(tree / "honest", golden.CAPABILITY, golden.CAPS, mode, owner)
    before = look(tree)
    for _ in range(2):
        rootfs.shift(tree, maps, recheck=True)
        # In the container it does not count either.
        assert [*map(capability, paths)] == [None, None]
        assert capability(honest) == golden.caps3(maps.root[0])
        assert rootfs.verify(tree, maps).ok
    rootfs.shift(tree, FAR)
    assert capability(honest) == golden.caps3(FAR.root[0])
    rootfs.unshift(tree)
    assert look(tree) == before
    if mode == 0o755:
        assert setuid_scan.find(str(tree), 10) == ["/honest"]


@pytest.mark.parametrize("maps", [NEW_ROOT, CROSSED])
@pytest.mark.parametrize("owner", [(1000, 1000), (1000, 70000)])
def test_a_capability_of_the_next_host_range_does_not_become_a_containers(
    root: Path, maps: IdMaps, owner: tuple[int, int]
) -> None:
    """The owner is the same before and after, and so does not tell."""
    root.chmod(0o700)
    tree = root / "tree"
    tree.mkdir()
    value = golden.caps3(maps.root[0])
    for name in ("file", "linked"):
        make(tree / name, golden.CAPABILITY, value, owner=owner)
    os.link(tree / "linked", tree / "again")
    make(tree / "honest", golden.CAPABILITY, golden.CAPS, 0o4755, owner)
    before = look(tree)
    rootfs.shift(tree, MAPS)
    assert capability(tree / "file") == value
    shifted = look(tree)

    def reshift() -> None:
        rootfs.shift(tree, maps, workers=1)

    def check() -> None:
        names = ("file", "linked", "honest")
        seen = [capability(tree / name) for name in names]
        assert seen == [None, None, value]

    for number in count(1):
        died = run_and_kill(reshift, number)
        if died and number % 2:
            # To where it was, but for what is put away already.
            rootfs.shift(tree, MAPS)
            assert capability(tree / "honest") == golden.caps3(UID)
        if died:
            reshift()
        check()
        rootfs.shift(tree, maps, recheck=True)
        check()
        rootfs.unshift(tree)
        assert look(tree) == before
        if not died:
            break
        rootfs.shift(tree, MAPS)
        assert look(tree) == shifted
    assert number > 5


@pytest.mark.parametrize("owner", OWNERS)
def test_an_unshift_that_is_run_again(
    tree: Path, owner: tuple[int, int]
) -> None:
    """Whatever moment it was killed at."""
    foreign = golden.caps3(UID)
    path = make(tree / "file", golden.CAPABILITY, foreign, 0o4755, owner)
    before = look(tree)
    rootfs.shift(tree, MAPS)
    note = golden.OURS + "capability"
    kept = os.getxattr(path, note)
    rootfs.unshift(tree)
    work = State(MAPS, Work(None, "keep"), devices=0).encode()
    pending = b"4755 " + golden.caps3(UID).hex().encode()
    for notes in (
        {},
        {note: kept},
        {note: kept, golden.OURS + "pending": pending},
    ):
        os.setxattr(tree, STATE, work)
        for name, value in notes.items():
            os.setxattr(path, name, value)
        rootfs.unshift(tree)
        assert look(tree) == before


@pytest.mark.parametrize("owner", OWNERS)
def test_a_shift_that_is_run_again(tree: Path, owner: tuple[int, int]) -> None:
    foreign = golden.caps3(UID)
    path = make(tree / "file", golden.CAPABILITY, foreign, 0o755, owner)
    before = look(tree)
    note = golden.OURS + "capability"
    for unowned in (False, True):
        os.setxattr(
            tree, STATE, State(None, Work(MAPS, "keep"), devices=0).encode()
        )
        os.setxattr(path, note, golden.caps3(UID))
        if unowned:
            os.setxattr(path, golden.OURS + "pending", b"- -")
            host = [MAPS.shift_uid(owner[0]), MAPS.shift_gid(owner[1])]
            os.chown(path, *(-1 if each is None else each for each in host))
        rootfs.shift(tree, MAPS)
        assert capability(path) is None
        rootfs.unshift(tree)
        assert look(tree) == before


def test_what_the_container_has_set_since_counts(tree: Path) -> None:
    path = make(tree / "file", golden.CAPABILITY, golden.caps3(UID))
    rootfs.shift(tree, MAPS)
    os.setxattr(path, golden.CAPABILITY, golden.caps3(UID + 1000))
    rootfs.unshift(tree)
    assert capability(path) == golden.caps3(1000)
    assert os.listxattr(path) == [golden.CAPABILITY]


def test_a_tree_that_has_lost_its_mark_is_as_before(tree: Path) -> None:
    path = make(tree / "file", golden.CAPABILITY, golden.CAPS)
    before = look(tree)
    rootfs.shift(tree, MAPS)
    os.removexattr(tree, STATE)
    assert rootfs.shift(tree, MAPS).shifted == 0
    assert capability(path) == golden.caps3(UID)
    rootfs.unshift(tree)
    assert look(tree) == before
