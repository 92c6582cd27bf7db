# SPDX-License-Identifier: Apache-2.0
"""Plans for device nodes, without any."""

import os
import stat

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lxc_userns.idmap import ID_LIMIT, IdMap, IdMaps
from lxc_userns.rootfs.shifting import device, worker_pool
from lxc_userns.rootfs.shifting.translation import BLOCK, Pass, Translation

A, B, OVERLAP = (
    IdMaps(IdMap.parse(text), IdMap.parse(text))
    for text in ("0:100000:65536", "0:300000:65536", "0:1000:65536")
)
DISK = os.makedev(8, 0)
ids = st.integers(0, 70000) | st.integers(0, ID_LIMIT - 1)
modes = st.integers(0, 0o7777)


def status(
    uid: int,
    gid: int,
    mode: int,
    *,
    kind: int = stat.S_IFBLK,
    rdev: int = DISK,
) -> os.stat_result:
    fields = [kind | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0]
    return os.stat_result(fields, {"st_rdev": rdev})


class Node:
    """A device node that does what is planned, up to some step."""

    def __init__(self, uid: int, gid: int, mode: int) -> None:
        self.now = (uid, gid, mode)
        self.note: bytes | None = None

    def take(self, step: Pass, steps: int = 9) -> bool:
        """Whether there was something to do."""
        change = device.plan(
            status(*self.now),
            self.note,
            worker_pool.plain_devices(step.devices),
        )
        if change is None:
            return False
        if steps > 0 and change.note is not None:
            self.note = change.note
        if steps > 1:
            self.now = (*change.owner, self.now[2] & 0o700)
        if steps > 2:
            self.now = (*change.owner, change.mode)
        if steps > 3 and change.forgets:
            self.note = None
        return True


def passes(each: Translation, *owners: int) -> list[Pass]:
    transit = None
    if each.needs_transit:
        transit = each.find_transit({owner // BLOCK for owner in owners})
    return list(each.passes(transit))


@given(ids, ids, modes, st.integers(0, 4), st.sampled_from((A, OVERLAP)))
def test_there_and_back(
    uid: int, gid: int, mode: int, killed: int, maps: IdMaps
) -> None:
    # In the host range of the maps that it was shifted for last, an owner
    # counts as shifted whenever the walk back is taken up, as of any inode.
    assume(B.uid.to_guest(uid) is None and B.uid.to_guest(gid) is None)
    node = Node(uid, gid, mode)
    for step in passes(Translation(None, maps), uid, gid):
        node.take(step, killed)
        node.take(step)
        assert node.now[:2] == (0, 0)
        assert not node.now[2] & 0o077
        assert not node.take(step)
    # To other maps, it stays what it is.
    sealed = node.now, node.note
    for step in passes(Translation(maps, B)):
        assert not node.take(step)
    assert (node.now, node.note) == sealed
    for step in passes(Translation(B, None)):
        node.take(step, killed)
        node.take(step)
    assert node.note is None

    def before(number: int) -> int:
        # What is in a host range counts as shifted, unless it is a guest ID.
        guest = maps.uid.to_guest(number)
        is_guest = maps.uid.to_host(number) is not None
        return number if is_guest or guest is None else guest

    assert node.now == (before(uid), before(gid), mode)


@pytest.mark.parametrize(
    ("owner", "translation", "before"),
    [
        ((100005, 100006), Translation(A, A), (5, 6)),
        ((100005, 100006), Translation(A, B), (5, 6)),
        ((100005, 100006), Translation(A, None), (5, 6)),
        # Lost what it says, and is shifted again.
        ((100005, 5), Translation(None, A), (5, 5)),
        ((1005, 1006), Translation(OVERLAP, OVERLAP), (5, 6)),
        ((1005, 1006), Translation(OVERLAP, A), (5, 6)),
        ((1005, 1006), Translation(OVERLAP, None), (5, 6)),
        ((1005, 1006), Translation(None, OVERLAP), (1005, 1006)),
    ],
)
def test_by_an_older_version_it_was_shifted(
    owner: tuple[int, int], translation: Translation, before: tuple[int, int]
) -> None:
    node = Node(*owner, 0o4660)
    for step in passes(translation):
        node.take(step)
    if translation.new is not None:
        for step in passes(Translation(translation.new, None)):
            node.take(step)
    assert node.now == (*before, 0o4660)


def test_an_older_version_left_it_in_the_transit_range() -> None:
    translation = Translation(None, OVERLAP)
    transit = translation.find_transit(())
    assert transit is not None
    for number in range(2):
        node = Node(transit + 5, transit + 6, 0o660)
        for step in translation.passes(transit)[number:]:
            node.take(step)
        assert node.note == b"5 6 660"


@pytest.mark.parametrize(
    ("kind", "rdev", "found"),
    [
        (stat.S_IFBLK, DISK, True),
        (stat.S_IFCHR, DISK, True),
        (stat.S_IFBLK, 0, True),
        (stat.S_IFCHR, 0, False),
        (stat.S_IFIFO, DISK, False),
        (stat.S_IFREG, DISK, False),
    ],
)
def test_which_they_are(kind: int, rdev: int, found: bool) -> None:
    assert device.is_device(status(0, 0, 0, kind=kind, rdev=rdev)) is found


@given(st.binary())
def test_any_note_is_read_or_refused(note: bytes) -> None:
    (step,) = passes(Translation(A, None))
    devices = worker_pool.plain_devices(step.devices)
    try:
        change = device.plan(status(0, 0, 0o600), note, devices)
    except OSError:
        return
    assert change is not None
    assert all(0 <= each < ID_LIMIT for each in change.owner)
    assert 0 <= change.mode <= 0o7777


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (None, "0:100000:65536", False),
        ("0:100000:65536", "0:100000:65536", False),
        ("0:100000:65536", "0:300000:65536", False),
        ("0:100000:5000", "0:300000:65536", False),
        ("0:100000:65536", "0:300000:5000", True),
        ("0:100000:65536", "0:300000:5000,5001:400000:65536", True),
        ("0:100000:65536", "0:300000:5000,5000:400000:65536", False),
        ("0:100000:65536", None, True),
        (None, None, True),
        (None, "0:1000:65536", True),
        ("0:100000:65536", "0:120000:65536", True),
    ],
)
def test_who_gets_other_ids(
    old: str | None, new: str | None, found: bool
) -> None:
    def maps(text: str | None, other: IdMap) -> list[IdMaps | None]:
        if text is None:
            return [None]
        one = IdMap.parse(text)
        return [IdMaps(one, one), IdMaps(one, other), IdMaps(other, one)]

    whole = IdMap.parse("0:100000:65536")
    olds, news = maps(old, whole), maps(new, whole)
    for index in range(max(len(olds), len(news))):
        each = Translation(olds[index % len(olds)], news[index % len(news)])
        if index == 0 or None in (old, new):
            assert each.leaves_host_ids is found
