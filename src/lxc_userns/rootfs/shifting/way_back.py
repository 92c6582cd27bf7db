# SPDX-License-Identifier: Apache-2.0
"""The way back from a half-done shift, as plain arithmetic on ranges.

While a pass is under way each inode is as before it, or as after it, and its
owner tells which. So a pass can be undone as well as finished, at any moment;
which of the two need not be known to whoever comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.idmap.ranges import subtract
from lxc_userns.rootfs.shifting.translation import (
    Devices,
    Pass,
    Segment,
    Segments,
    Table,
    changes,
    gid_of,
    hosts_of,
    hosts_on_the_way,
    same_hosts,
    steps,
    through,
    translate_map,
    uid_of,
)

_Kind = tuple[IdMap | None, IdMap | None]


def undo_map(
    old: IdMap | None, new: IdMap | None, transit: int | None
) -> tuple[Segments, ...]:
    """Return what undoes each step of a way from one ID map to another.

    :param old: the map before, None for guest IDs.
    :param new: the map after, None for guest IDs.
    :param transit: first ID of the transit range, None if there is none.
    :returns: what undoes the first step, and with a transit range the second.
    """
    if transit is None:
        return (_undo(steps(old, new)),)
    segments = translate_map(old, new)
    to, on = through(segments, transit)
    # An ID that stays takes no way, and none leads to it.
    last = dict(zip(segments, on, strict=True))
    return _undo(to), _undo(last.get(each, each) for each in steps(old, new))


def _undo(forward: Iterable[Segment]) -> Segments:
    """Turn steps round; of two that lead to one ID the first counts."""
    taken: list[range] = []
    back = []
    for each in forward:
        for part in subtract(each.targets, taken):
            source = each.source + part.start - each.target
            back.append(Segment(part.start, source, len(part)))
        taken.append(each.targets)
    return changes(back)


@dataclass(frozen=True, slots=True)
class WayBack:
    """From a half-done translation to what was before it.

    An inode that it has not come to is left as it is. Whom the policy
    ``nobody`` has made nobody stays so.

    :param old: the maps before, None for guest IDs.
    :param new: the maps after, None for guest IDs.
    :param transit: first ID of the transit range, None if there is none.
    """

    old: IdMaps | None
    new: IdMaps | None
    transit: int | None

    def passes(self) -> Sequence[Pass]:
        """Return the passes to make, each under the number it undoes."""
        uid, gid = (undo_map(*kind, self.transit) for kind in self._kinds())
        return tuple(
            self._pass(step, uid[step::-1], gid[step::-1])
            for step in range(len(uid))
        )

    def remaining(self, step: int) -> Pass:
        """Return what is left from a pass on, as one pass to look at."""
        uid, gid = (
            [undo_map(*kind, self.transit)[0]] for kind in self._kinds()
        )
        if step:
            for way, kind in zip((uid, gid), self._kinds(), strict=True):
                way[0] += undo_map(*kind, None)[0]
        return self._pass(0, uid, gid)

    def _pass(
        self, step: int, uid: Sequence[Segments], gid: Sequence[Segments]
    ) -> Pass:
        """Make a pass of the first steps, where the rest is still to go."""
        uid_maps, gid_maps = self._kinds()
        return Pass(
            self._table(step, uid[0], uid_maps),
            self._table(step, gid[0], gid_maps),
            Devices(
                (*uid, translate_map(uid_maps[0], None)),
                (*gid, translate_map(gid_maps[0], None)),
                seals=self.old is not None or step > 0,
            ),
        )

    def _table(self, step: int, segments: Segments, maps: _Kind) -> Table:
        old, new = maps
        final = () if step else _final(old, new)
        if new is None:
            # One of elsewhere was given back, and no pass before knows it.
            return Table(segments, final, undoes=True, hosts=hosts_of(old))
        segments_there = translate_map(old, new)
        before = hosts_on_the_way(old, segments_there, self.transit)
        before += hosts_of(new)
        return Table(
            segments,
            final,
            undoes=True,
            before=before,
            same=same_hosts(old, new),
        )

    def _kinds(self) -> tuple[_Kind, _Kind]:
        """Return the maps before and after, of user IDs and of group IDs."""
        return (
            (uid_of(self.old), uid_of(self.new)),
            (gid_of(self.old), gid_of(self.new)),
        )


def _final(old: IdMap | None, new: IdMap | None) -> tuple[range, ...]:
    if old is None:
        return tuple(entry.guest_ids for entry in new or ())
    return hosts_of(old)
