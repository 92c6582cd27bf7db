# SPDX-License-Identifier: Apache-2.0
"""The translation of one pass, made fast: a look-up for each inode.

Worker processes load this, so it imports next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    #: What a Table has, in its order, as plain numbers.
    PlainTable = tuple[
        Sequence[tuple[int, int, int]],
        Sequence[tuple[int, int]],
        int | None,
        bool,
        Sequence[tuple[int, int]],
        Sequence[tuple[int, int]],
        Sequence[tuple[int, int]],
    ]

#: Distinct IDs remembered; a hostile image may have a million of them.
_MOST_CACHED = 16384
#: Distinct unmapped IDs that are reported.
_MOST_REPORTED = 100
_BLOCK = 65536


class Ids(dict[int, int]):
    """New ID by old ID, for one kind; filled as IDs are asked for.

    :param table: what the pass does, as plain numbers.
    """

    def __init__(self, table: PlainTable) -> None:
        super().__init__()
        self._segments, self._final, self._nobody = table[:3]
        self._undoes, self._before, self._hosts, self._same = table[3:]
        #: Blocks of 65536 IDs in which one was found.
        self.blocks: set[int] = set()
        #: The first unmapped IDs that were found.
        self.unmapped: set[int] = set()

    def __missing__(self, number: int) -> int:
        new = self._new(number)
        if len(self) >= _MOST_CACHED:
            self.clear()
        self[number] = new
        return new

    def qualifier(self, number: int) -> int:
        """Return the new ID, the policy for unmapped ones aside."""
        self.blocks.add(number // _BLOCK)
        for source, target, count in self._segments:
            if source <= number < source + count:
                return target + number - source
        return number

    @property
    def is_last(self) -> bool:
        """Return whether all is done after this pass, if that shows."""
        return bool(self._final)

    def is_final(self, number: int) -> bool:
        """Return whether an owner stays when all passes are done."""
        return not self._final or _is_in(self._final, number)

    def is_undone(self, number: int) -> bool:
        """Return whether a pass taken back by this has not come here."""
        return self._undoes and self._is_target(number)

    @property
    def undoes_shift(self) -> bool:
        """Return whether this pass takes back one that leads to host IDs."""
        return self._undoes and bool(self._before)

    def was_shifted(self, number: int) -> bool:
        """Return whether an owner tells that its inode is shifted."""
        return _is_in(self._before, number)

    def is_host_id(self, number: int) -> bool:
        """Return whether a capability with this root ID is for a container."""
        return _is_in(self._hosts, number)

    def stays_unmapped(self, number: int) -> bool:
        """Return whether an owner is none of the maps' after all passes."""
        return not self.is_reached(self[number])

    def is_same(self, number: int) -> bool:
        """Return whether it is one host ID before and after all passes."""
        return _is_in(self._same, number)

    def tells_nothing(self, number: int) -> bool:
        """Return whether an owner leaves open if this pass came here.

        It is the same before and after: one of no map, or the same host ID.
        """
        return self[number] == number and (
            self.stays_unmapped(number) or self.is_same(number)
        )

    def is_reached(self, number: int) -> bool:
        """Return whether this pass, or one before, leads to an ID."""
        if self.is_last:
            return self.is_final(number)
        return self._is_target(number)

    def _is_target(self, number: int) -> bool:
        return any(
            target <= number < target + count
            for _, target, count in self._segments
        )

    def is_mapped(self, number: int) -> bool:
        """Return whether the maps cover an owner found before this pass."""
        mapped = self.is_final(self.qualifier(number))
        if not mapped:
            self.note_unmapped(number)
        return mapped

    def note_unmapped(self, number: int) -> None:
        """Note one of the first unmapped IDs."""
        if len(self.unmapped) < _MOST_REPORTED:
            self.unmapped.add(number)

    def _new(self, number: int) -> int:
        new = self.qualifier(number)
        if self._nobody is not None and not self.is_final(new):
            return self._nobody
        return new


def _is_in(ranges: Sequence[tuple[int, int]], number: int) -> bool:
    return any(start <= number < stop for start, stop in ranges)


class Owner:
    """Translation of one owner.

    :param uid: new user ID.
    :param gid: new group ID.
    :param moves: whether one of them differs from what it was.
    :param mapped: whether the maps cover both.
    """

    __slots__ = ("gid", "mapped", "moves", "uid")

    def __init__(self, uid: int, gid: int, moves: bool, mapped: bool) -> None:
        self.uid = uid
        self.gid = gid
        self.moves = moves
        self.mapped = mapped


class Owners(dict[tuple[int, int], Owner]):
    """:class:`Owner` by old (user ID, group ID).

    :param uids: user IDs.
    :param gids: group IDs.
    """

    def __init__(self, uids: Ids, gids: Ids) -> None:
        super().__init__()
        self.uids = uids
        self.gids = gids

    def __missing__(self, pair: tuple[int, int]) -> Owner:
        uid, gid = pair
        new = self.uids[uid], self.gids[gid]
        owner = Owner(
            *new,
            moves=new != pair,
            mapped=self.uids.is_mapped(uid) & self.gids.is_mapped(gid),
        )
        if len(self) >= _MOST_CACHED:
            self.clear()
        self[pair] = owner
        return owner
