# SPDX-License-Identifier: Apache-2.0
"""ID maps of the user namespaces that tar runs in."""

from __future__ import annotations

from collections.abc import Iterator

from lxc_userns.idmap import ID_LIMIT, IdMap, IdMapEntry, IdMaps
from lxc_userns.idmap.ranges import subtract

#: A row of ``uid_map``: first ID inside, first ID outside, number of IDs.
Row = tuple[int, int, int]
#: Those of ``uid_map`` and ``gid_map``.
Rows = tuple[tuple[Row, ...], tuple[Row, ...]]

#: The first of the host IDs that no user or service has, for as long as tar
#: runs: on disk, and so in the idmapped mount, they are 0 and up again.
HALF = 2**31
_UPPER_HALF = IdMap((IdMapEntry(0, HALF, HALF - 1),))
THROWAWAY = IdMaps(_UPPER_HALF, _UPPER_HALF)
_UPPER = ((0, HALF, HALF - 1),)
UPPER_ROWS: Rows = (_UPPER, _UPPER)
#: For a tree that is as it is in the archive, all IDs.
_ALL = ((0, 0, ID_LIMIT),)
IDENTITY: Rows = (_ALL, _ALL)


def shifted_rows(maps: IdMaps) -> Rows:
    """Return the rows by which the kernel shows the guest IDs of a tree.

    :param maps: what it is shifted for. An owner that no entry covers was
        left as it is by the shift, and is shown as it is on disk: only those
        that are guest IDs of the maps are shown as none.
    """
    return tuple(_shifted(maps.uid)), tuple(_shifted(maps.gid))


def _shifted(id_map: IdMap) -> Iterator[Row]:
    taken = []
    for entry in id_map:
        yield entry.guest, entry.host, entry.count
        taken += [entry.guest_ids, entry.host_ids]
    for ids in subtract(range(ID_LIMIT), taken):
        yield ids.start, ids.start, len(ids)
