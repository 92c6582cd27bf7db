# SPDX-License-Identifier: Apache-2.0
"""Valid ID maps for property tests."""

import sys

from hypothesis import strategies as st

from lxc_userns.idmap import ID_LIMIT, IdMap, IdMapEntry, IdMaps

#: How a number of 5000 digits is shown: Python does not write it, but before
#: 3.11.0, as in Ubuntu 22.04.
TOO_LONG = (
    "of too many digits"
    if hasattr(sys, "get_int_max_str_digits")
    else r"[19][09]{9}\S*"
)
# Edges of what is special about IDs, and ranges close enough to collide.
_EDGES = (0, 5, 1000, 65534, 65536, 100000, 2**31, ID_LIMIT)
_IDS = st.integers(0, ID_LIMIT) | st.builds(
    lambda edge, step: min(max(edge + step, 0), ID_LIMIT),
    st.sampled_from(_EDGES),
    st.integers(-70000, 70000),
)


@st.composite
def host_id_maps(draw: st.DrawFn, least: int = 1) -> IdMap:
    """Draw an ID map.

    :param draw: draws from a strategy.
    :param least: guest IDs 0..least-1 are in its first entry.
    """
    number = draw(st.integers(1, 5))
    cuts = draw(
        st.lists(_IDS, min_size=2 * number, max_size=2 * number, unique=True)
    )
    # Disjoint ranges of guest IDs, the first from 0.
    guests = sorted(cuts)
    guests[0] = 0
    guests[1] = max(guests[1], least)
    pairs = [
        (start, stop)
        for start, stop in zip(guests[::2], guests[1::2], strict=True)
        if start < stop and (start == 0 or start >= guests[1])
    ]
    entries: list[IdMapEntry] = []
    for start, stop in pairs:
        count = stop - start
        if entries:
            count = draw(st.integers(1, count))
        entry = _place(draw, entries, start, count)
        if entry is not None:
            entries.append(entry)
    if not entries:
        entries.append(IdMapEntry(0, 100000, max(least, 1)))
    return IdMap(tuple(draw(st.permutations(entries))))


def _place(
    draw: st.DrawFn, entries: list[IdMapEntry], guest: int, count: int
) -> IdMapEntry | None:
    count = min(count, ID_LIMIT - 1)
    free = [
        start
        for start in (1, *(e.host + e.count for e in entries), draw(_IDS))
        if start >= 1
        and start + count <= ID_LIMIT
        and not any(
            start < e.host + e.count and e.host < start + count
            for e in entries
        )
    ]
    if not free:
        return None
    return IdMapEntry(guest, free[-1], count)


id_maps = st.builds(IdMaps, host_id_maps(), host_id_maps(least=6))
