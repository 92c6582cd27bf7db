# SPDX-License-Identifier: Apache-2.0
"""Capabilities of one inode, killed between any two changes of it."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, pairwise, permutations, product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.shifting import filecaps, inode, worker_pool
from lxc_userns.rootfs.shifting.kept_filecaps import KEPT, SHIFTED
from lxc_userns.rootfs.shifting.owners import Ids, Owners
from lxc_userns.rootfs.shifting.translation import Pass, Translation
from lxc_userns.rootfs.shifting.way_back import WayBack

A, B, OVERLAP, FEW, SAME_ROOT, NEW_ROOT, CROSSED = (
    IdMaps(IdMap.parse(text), IdMap.parse(text))
    for text in (
        "0:100000:65536",
        "0:300000:65536",
        "0:1000:65536",
        "0:400000:6",
        "0:100000:1,1:500000:65535",
        "0:300000:1,1:100001:65535",
        "0:300000:1,11:100001:10,1:100011:10,21:100021:65515",
    )
)
#: The blocks of all IDs that are used here, for no transit range to be there.
BLOCKS = range(9)
#: Covered by all, by most, and by none; host IDs of A are shifted already.
OWNERS = [(0, 0), (1000, 1000), (70000, 70000), (70000, 1000), (1000, 70000)]
#: None; guest IDs; by no map; host IDs of A, of B, and of OVERLAP alone.
ROOTS = [None, 0, 1000, 70000, 100000, 100005, 300000, 300005, 66000]


def caps(root: int | None) -> bytes | None:
    if root is None:
        return None
    sets = struct.pack("<4I", 0x2400, 0, 0, 0)
    if root == 0:
        return struct.pack("<I", 0x02000001) + sets
    return struct.pack("<I", 0x03000001) + sets + struct.pack("<I", root)


class Node:
    """An inode that does what is planned, up to some change."""

    def __init__(
        self, owner: tuple[int, int], mode: int, root: int | None
    ) -> None:
        self.owner = owner
        self.mode = mode
        self.xattrs: dict[str, bytes] = {}
        value = caps(root)
        if value is not None:
            self.xattrs[filecaps.NAME] = value

    @property
    def now(self) -> tuple[object, ...]:
        return self.owner, self.mode, dict(self.xattrs)

    def copy(self) -> Node:
        other = Node(self.owner, self.mode, None)
        other.xattrs = dict(self.xattrs)
        return other

    def take(self, step: Pass, most: int = 99) -> bool:
        """Make a pass up to a number of changes, and say if that was all."""
        fields = [stat.S_IFREG | self.mode, 1, 1, 1, *self.owner, *[0] * 4]
        owners = Owners(
            Ids(worker_pool.plain(step.uid)), Ids(worker_pool.plain(step.gid))
        )
        change = inode.plan(
            os.stat_result(fields),
            self.xattrs,
            owners,
            to_host=step.devices.seals,
        )
        for number, event in enumerate(self._changes(change)):
            if number == most:
                return False
            event()
        return True

    def _changes(self, change: inode.Change) -> Iterator[Callable[[], None]]:
        """Yield the changes in the order of :func:`inode.apply`."""
        if not change:
            return
        if change.kept is not None:
            yield lambda: self._set(KEPT, change.kept)
        if change.journal:
            note = inode.encode_journal(change.mode, change.capability)
            yield lambda: self._set(inode.JOURNAL, note)
        if change.owner is not None:
            yield partial(self._chown, change.owner)
        if change.mode is not None:
            yield lambda: setattr(self, "mode", change.mode)
        if change.capability is not None:
            yield lambda: self._set(filecaps.NAME, change.capability)
        elif change.drops:
            yield lambda: self._set(filecaps.NAME, None)
        if change.journal or change.pending:
            yield lambda: self._set(inode.JOURNAL, None)
        if change.forgets:
            yield lambda: self._set(KEPT, None)

    def _set(self, name: str, value: bytes | None) -> None:
        self.xattrs.pop(name, None)
        if value is not None:
            self.xattrs[name] = value

    def _chown(self, owner: tuple[int, int]) -> None:
        self.owner = owner
        self.mode &= 0o1777
        self._set(filecaps.NAME, None)


def passes(old: IdMaps | None, new: IdMaps | None) -> Sequence[Pass]:
    each = Translation(old, new)
    return each.passes(transit_of(each))


def back(old: IdMaps | None, new: IdMaps | None) -> Sequence[Pass]:
    transit = transit_of(Translation(old, new))
    return WayBack(old, new, transit).passes()


def transit_of(each: Translation) -> int | None:
    return each.find_transit(BLOCKS) if each.needs_transit else None


def go(node: Node, steps: Sequence[Pass]) -> Node:
    for step in steps:
        assert node.take(step)
    return node


NODES = [
    Node(owner, mode, root)
    for owner, mode, root in product(OWNERS, (0o755, 0o4755), ROOTS)
]
#: Neighbours in it are ways, to and fro.
ROUND = [None, A, B, SAME_ROOT, OVERLAP, FEW, None, OVERLAP, A, FEW, B]
ROUND += [OVERLAP, None, A, None]
#: Most owners keep their host IDs, and the container's root does not; between
#: the last two there is a range on the way.
ROUND += [NEW_ROOT, A, CROSSED, NEW_ROOT, CROSSED, A, NEW_ROOT, FEW, None]
WAYS = [*pairwise(ROUND)]


@pytest.mark.parametrize(("old", "new"), WAYS)
def test_killed_and_finished_or_taken_back(
    old: IdMaps | None, new: IdMaps | None
) -> None:
    for each in NODES:
        node = go(each.copy(), passes(None, old) if old else ())
        check_kills(node, passes(old, new), back(old, new), old is None)


def check_kills(
    node: Node, there: Sequence[Pass], undone: Sequence[Pass], is_exact: bool
) -> None:
    """Check all ends of all ways to and fro between two trees."""
    after = go(node.copy(), there).now
    # What was put away for the new maps stays so.
    returned = go(go(node.copy(), there), undone[::-1]).now
    possible = (node.now,) if is_exact else (node.now, returned)
    seen, waiting = [], [(0, node)]
    while waiting:
        step, each = waiting.pop()
        if (step, each.now) in seen:
            continue
        seen.append((step, each.now))
        if step == len(there):
            assert each.now == after
        elif step < 0:
            assert each.now in possible
        else:
            waiting += next_moments(each, there, undone, step)


def next_moments(
    node: Node, there: Sequence[Pass], undone: Sequence[Pass], step: int
) -> Iterator[tuple[int, Node]]:
    """Yield what a run that is killed leaves, and one that goes on."""
    for which, direction in ((there, 1), (undone, -1)):
        for killed in killed_at(node, which[step]):
            yield step, killed
        # All of the tree is done, not this inode alone.
        yield step + direction, killed


def killed_at(node: Node, step: Pass) -> Iterator[Node]:
    """Yield what each kill within a pass leaves, and what none does."""
    for most in count():
        killed = node.copy()
        is_done = killed.take(step, most)
        yield killed
        if is_done:
            return


@pytest.mark.parametrize(("old", "new"), WAYS)
def test_only_what_was_the_trees_is_the_containers(
    old: IdMaps | None, new: IdMaps | None
) -> None:
    """Nor after the pass is made again, as it is after a kill."""
    if new is None:
        return
    for each in NODES:
        node = go(each.copy(), passes(None, old) if old else ())
        if is_host_id(node.owner[0], new) and not is_host_id(
            node.owner[0], old
        ):
            continue  # Counts as shifted, with all it has.
        guest = guest_of(node, old)
        go(node, passes(old, new))
        for _ in range(2):
            root = root_of(node)
            if is_host_id(root, new):
                assert guest is not None
                assert root == new.shift_uid(guest)
            go(node, passes(old, new)[-1:])


_BLOCK = 10
_GUESTS = range(0, 3 * _BLOCK, _BLOCK)
_PLACES = range(100, 150, _BLOCK)


@st.composite
def maps_of_few_places(draw: st.DrawFn) -> IdMaps:
    """Draw maps that often have something in common."""
    places = draw(st.permutations(_PLACES))[: draw(st.integers(1, 3))]
    text = ",".join(
        f"{guest}:{host}:{_BLOCK}"
        for guest, host in zip(_GUESTS, places, strict=False)
    )
    return IdMaps(IdMap.parse(text), IdMap.parse(text))


_NUMBERS = st.sampled_from([0, 3, 13, 23, 70, *_PLACES, 103, 123, 143])


@given(
    maps_of_few_places(),
    maps_of_few_places(),
    st.tuples(_NUMBERS, _NUMBERS),
    st.sampled_from([0o755, 0o4755]),
    st.none() | _NUMBERS,
)
def test_any_reshift(
    old: IdMaps,
    new: IdMaps,
    owner: tuple[int, int],
    mode: int,
    root: int | None,
) -> None:
    image = Node(owner, mode, root)
    node = go(image.copy(), passes(None, old))
    # Else it counts as shifted, with all it has.
    for number in node.owner:
        assume(is_host_id(number, old) or not is_host_id(number, new))
    check_kills(node, passes(old, new), back(old, new), is_exact=False)
    guest = guest_of(node, old)
    after = go(node.copy(), passes(old, new))
    if is_host_id(root_of(after), new):
        assert guest is not None
        assert root_of(after) == new.shift_uid(guest)
    unshifted = go(node, passes(old, None)).now
    assert go(after, passes(new, None)).now == unshifted


def root_of(node: Node) -> int | None:
    value = node.xattrs.get(filecaps.NAME)
    return None if value is None else filecaps.root_id(value)


def guest_of(node: Node, maps: IdMaps | None) -> int | None:
    """The root ID of the capabilities as the container has it."""
    root = root_of(node)
    guest = maps.uid.to_guest(root) if maps and root is not None else None
    return root if guest is None else guest


def is_host_id(number: int | None, maps: IdMaps | None) -> bool:
    if maps is None or number is None:
        return False
    return maps.uid.to_guest(number) is not None


@pytest.mark.parametrize(
    "way",
    [
        *permutations((A, B, OVERLAP, FEW), 3),
        (A, SAME_ROOT, B),
        *permutations((A, NEW_ROOT, CROSSED), 3),
        (A, NEW_ROOT, OVERLAP),
        (NEW_ROOT, FEW, A),
    ],
)
def test_unshift_is_the_inverse(way: Sequence[IdMaps]) -> None:
    for each in NODES:
        node = each.copy()
        for old, new in zip((None, *way), (*way, None), strict=True):
            go(node, passes(old, new))
        assert node.now == each.now


def test_same_host_id_of_the_root_is_not_from_elsewhere() -> None:
    """The owner moves, and the root ID stays, but both were shifted."""
    node = go(Node((1000, 1000), 0o755, 0), passes(None, A))
    go(node, passes(A, SAME_ROOT))
    assert node.xattrs == {filecaps.NAME: caps(100000)}


def test_what_is_gone_does_not_come_back() -> None:
    """A write to a file takes its capabilities, whoever owns it."""
    node = go(Node((70000, 70000), 0o755, 0), passes(None, A))
    assert node.xattrs.pop(KEPT) == SHIFTED
    node.xattrs = {KEPT: SHIFTED}
    go(node, passes(A, None))
    assert node.xattrs == {}


@pytest.mark.parametrize("note", [b"", b"x", b"shifted ", caps(0)])
def test_note_that_is_none_of_ours(note: bytes) -> None:
    """It gives nothing back, and is in nothing's way."""
    for root in (None, 0, 100005):
        node = Node((70000, 0), 0o755, root)
        before = node.now
        node.xattrs[KEPT] = note
        go(node, passes(None, A))
        assert caps(0) != node.xattrs.get(filecaps.NAME)
        go(node, passes(A, None))
        assert node.now == before
