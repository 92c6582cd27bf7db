# SPDX-License-Identifier: Apache-2.0
"""Translation of owners on disk, as plain arithmetic on ranges.

A shift, an unshift and a reshift differ only here: each is a list of passes
over the tree, and each pass translates IDs so that doing it twice is the same
as once. That is what lets an interrupted pass simply be run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lxc_userns.idmap import ID_LIMIT, NOBODY_ID, IdMap, IdMaps
from lxc_userns.idmap.ranges import intersect, subtract

#: Granularity in which the IDs found on disk are remembered, and in which
#: a transit range is looked for.
BLOCK = 65536


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """IDs ``source..source+count-1`` become ``target..``.

    :raises ValueError: if there are none, or they pass 4294967294.
    """

    source: int
    target: int
    count: int

    def __post_init__(self) -> None:
        for ids in (self.sources, self.targets):
            if not (ids and ids.start >= 0 and ids.stop <= ID_LIMIT):
                raise ValueError(f"{self}: these are no IDs")

    @property
    def sources(self) -> range:
        """Return the IDs that change."""
        return range(self.source, self.source + self.count)

    @property
    def targets(self) -> range:
        """IDs after the pass."""
        return range(self.target, self.target + self.count)


Segments = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Table of one pass for the IDs of one kind.

    :param segments: the IDs that change; all others stay.
    :param final: the ranges in which an owner belongs when all is done;
        empty for a pass after which another follows.
    :param nobody: what an owner outside ``final`` becomes; None: it stays.
    :param undoes: whether it takes back another pass that is half-done.
    :param before: owners that tell of an inode that was shifted before; for
        a pass that takes back another, before it was taken back.
    :param hosts: host IDs that a capability of elsewhere can name, if these
        are not ``final``.
    :param same: host IDs that are the same before all is done and after:
        owners that tell nothing of this pass.
    """

    segments: Segments
    final: tuple[range, ...] = ()
    nobody: int | None = None
    undoes: bool = False
    before: tuple[range, ...] = ()
    hosts: tuple[range, ...] = ()
    same: tuple[range, ...] = ()

    @property
    def is_idempotent(self) -> bool:
        """Return whether doing it twice is the same as once."""
        nobody = self.nobody
        return is_idempotent(self.segments) and (
            nobody is None
            or not any(nobody in each.sources for each in self.segments)
        )


@dataclass(frozen=True, slots=True)
class Devices:
    """Table of one pass for device nodes, which stay root's.

    :param uid: steps from a user ID found on disk to that in the image.
    :param gid: the same for group IDs.
    :param seals: whether they become root's alone, else what they were.
    """

    uid: tuple[Segments, ...] = ()
    gid: tuple[Segments, ...] = ()
    seals: bool = True


@dataclass(frozen=True, slots=True)
class Pass:
    """One walk over a tree."""

    uid: Table
    gid: Table
    devices: Devices = Devices()


def translate_map(old: IdMap | None, new: IdMap | None) -> Segments:
    """Translate one ID map to another, as segments of IDs.

    :param old: the map the tree is shifted for, None if for none.
    :param new: the map it shall be shifted for, None for guest IDs.
    :returns: the segments that change something, ascending by source. A guest
        ID found in a shifted tree is shifted too; a host ID of the old map
        whose guest ID the new map lacks goes back to that guest ID.
    """
    return changes(steps(old, new))


def changes(segments: Iterable[Segment]) -> Segments:
    """Return those that change something, ascending by source."""
    return tuple(
        sorted(each for each in segments if each.source != each.target)
    )


def steps(old: IdMap | None, new: IdMap | None) -> Iterator[Segment]:
    """Return what becomes of all IDs of two maps, also those that stay.

    Of two that become the same, a host ID of both maps comes first, and a
    guest ID that was found in a shifted tree last.
    """
    yield from _keep(old, new)
    yield from _drop(old, new)
    yield from _enter(old, new)


def _keep(old: IdMap | None, new: IdMap | None) -> Iterator[Segment]:
    """Translate host IDs of the old map to those of the new one."""
    for entry in old or ():
        for other in new or ():
            guest = intersect(entry.guest_ids, other.guest_ids)
            if guest:
                yield Segment(
                    entry.host + guest.start - entry.guest,
                    other.host + guest.start - other.guest,
                    len(guest),
                )


def _drop(old: IdMap | None, new: IdMap | None) -> Iterator[Segment]:
    """Translate host IDs to guest IDs that the new map lacks."""
    kept = [entry.guest_ids for entry in new or ()]
    for entry in old or ():
        for guest in subtract(entry.guest_ids, kept):
            yield Segment(
                entry.host + guest.start - entry.guest,
                guest.start,
                len(guest),
            )


def _enter(old: IdMap | None, new: IdMap | None) -> Iterator[Segment]:
    """Translate guest IDs that the old map does not use as host IDs."""
    taken = [entry.host_ids for entry in old or ()]
    for entry in new or ():
        for guest in subtract(entry.guest_ids, taken):
            yield Segment(
                guest.start,
                entry.host + guest.start - entry.guest,
                len(guest),
            )


def is_idempotent(segments: Segments) -> bool:
    """Return whether twice is the same as once: no target is a source."""
    return not any(
        intersect(one.targets, other.sources)
        for one in segments
        for other in segments
    )


def find_transit(
    kinds: Iterable[Segments],
    used_blocks: Iterable[int],
    reserved: Iterable[range] = (),
) -> int | None:
    """Return where a transit range can lie.

    :param kinds: the segments for user IDs, and those for group IDs.
    :param used_blocks: the blocks of 65536 IDs in which an ID was found on
        disk, as ``ID // 65536``.
    :param reserved: other IDs that it must not hold.
    :returns: the first ID, as high as possible; None if there is no room.
    """
    kinds = list(kinds)
    size = max(sum(each.count for each in kind) for kind in kinds)
    taken = [range(b * BLOCK, (b + 1) * BLOCK) for b in used_blocks]
    taken += reserved
    taken += [ids for k in kinds for s in k for ids in (s.sources, s.targets)]
    free = subtract(range(ID_LIMIT), taken)
    fitting = [each for each in free if len(each) >= size]
    return fitting[-1].stop - size if fitting else None


def through(segments: Segments, transit: int) -> tuple[Segments, Segments]:
    """Return the same way in two steps, to a transit range and on from it."""
    to, on = [], []
    for each in segments:
        to.append(Segment(each.source, transit, each.count))
        on.append(Segment(transit, each.target, each.count))
        transit += each.count
    return tuple(to), tuple(on)


def hosts_of(id_map: IdMap | None) -> tuple[range, ...]:
    """Return the host IDs of a map, none for guest IDs."""
    return tuple(entry.host_ids for entry in id_map or ())


def same_hosts(old: IdMap | None, new: IdMap | None) -> tuple[range, ...]:
    """Return the host IDs that have the same guest IDs in two maps."""
    return tuple(s.sources for s in _keep(old, new) if s.source == s.target)


def hosts_on_the_way(
    old: IdMap | None, segments: Segments, transit: int | None
) -> tuple[range, ...]:
    """Return the part of a transit range in which host IDs are.

    :param old: the map whose host IDs they were.
    :param segments: what happens to owners.
    :param transit: first ID of the range, None if there is none.
    """
    if transit is None:
        return ()
    pairs = zip(segments, through(segments, transit)[0], strict=True)
    hosts = hosts_of(old)
    return tuple(
        to.targets
        for each, to in pairs
        if any(each.source in ids for ids in hosts)
    )


def _leads_out(segments: Segments, id_map: IdMap) -> bool:
    inside = hosts_of(id_map)
    return any(any(subtract(s.targets, inside)) for s in segments)


def uid_of(maps: IdMaps | None) -> IdMap | None:
    """Return the map of user IDs, None for guest IDs."""
    return None if maps is None else maps.uid


def gid_of(maps: IdMaps | None) -> IdMap | None:
    """Return the map of group IDs, None for guest IDs."""
    return None if maps is None else maps.gid


@dataclass(frozen=True, slots=True)
class Translation:
    """From one pair of ID maps to another.

    :param old: the maps a tree is shifted for, None if for none.
    :param new: the maps it shall be shifted for, None for guest IDs.
    :param unmapped: ``keep``, ``nobody`` or ``error``.
    """

    old: IdMaps | None
    new: IdMaps | None
    unmapped: str = "keep"

    @property
    def uid_segments(self) -> Segments:
        """Segments of user IDs."""
        return translate_map(uid_of(self.old), uid_of(self.new))

    @property
    def gid_segments(self) -> Segments:
        """Segments of group IDs."""
        return translate_map(gid_of(self.old), gid_of(self.new))

    @property
    def needs_transit(self) -> bool:
        """Return whether an owner alone cannot tell if it was translated."""
        direct = self.direct()
        return not (direct.uid.is_idempotent and direct.gid.is_idempotent)

    @property
    def leaves_host_ids(self) -> bool:
        """Return whether an owner becomes another ID than a new map's host ID.

        A range on the way, which may be another container's, counts too.
        """
        return (
            self.new is None
            or self.needs_transit
            or _leads_out(self.uid_segments, self.new.uid)
            or _leads_out(self.gid_segments, self.new.gid)
        )

    def direct(self) -> Pass:
        """Return all in one pass."""
        return self._last(self.uid_segments, self.gid_segments)

    def passes(self, transit: int | None) -> Sequence[Pass]:
        """Return the passes to make.

        :param transit: first ID of the transit range, if one is needed.
        """
        if transit is None:
            return (self.direct(),)
        uid_to, uid_on = through(self.uid_segments, transit)
        gid_to, gid_on = through(self.gid_segments, transit)
        # A device node may be in the transit range too, by an older version.
        devices = self._devices(
            self.uid_segments + uid_on, self.gid_segments + gid_on
        )
        return (
            Pass(Table(uid_to), Table(gid_to), replace(devices, seals=True)),
            self._last(uid_on, gid_on, transit),
        )

    def find_transit(self, used_blocks: Iterable[int]) -> int | None:
        """Return where a transit range can lie; see :func:`find_transit`."""
        direct = self.direct()
        return find_transit(
            (self.uid_segments, self.gid_segments),
            used_blocks,
            (*direct.uid.final, *direct.gid.final),
        )

    def remaining(self, transit: int | None, step: int) -> Pass:
        """Return the rest from a pass on, as one pass to look at.

        :param transit: first ID of the transit range, if there is one.
        :param step: the pass under way, from 0.
        """
        last = self.passes(transit)[-1]
        if transit is None or step:
            return last
        return self._last(
            self.uid_segments + last.uid.segments,
            self.gid_segments + last.gid.segments,
            transit,
        )

    def _last(
        self, uid: Segments, gid: Segments, transit: int | None = None
    ) -> Pass:
        old, new = uid_of(self.old), uid_of(self.new)
        before = hosts_on_the_way(old, self.uid_segments, transit)
        before += hosts_of(old)
        return Pass(
            replace(
                self._final(uid, old, new),
                before=before,
                same=same_hosts(old, new),
            ),
            self._final(gid, gid_of(self.old), gid_of(self.new)),
            self._devices(uid, gid),
        )

    def _devices(self, uid: Segments, gid: Segments) -> Devices:
        return Devices(
            (uid, translate_map(uid_of(self.new), None)),
            (gid, translate_map(gid_of(self.new), None)),
            seals=self.new is not None,
        )

    def _final(
        self, segments: Segments, old: IdMap | None, new: IdMap | None
    ) -> Table:
        if new is None:
            final = tuple(entry.guest_ids for entry in old or ())
            return Table(segments, final)
        nobody = None
        if self.unmapped == "nobody":
            nobody = new.to_host(NOBODY_ID)
        return Table(segments, hosts_of(new), nobody)
