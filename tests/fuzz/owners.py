# SPDX-License-Identifier: Apache-2.0
"""ACLs and file capabilities, under ID maps."""

import struct
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.idmap import IdMaps
from lxc_userns.rootfs.shifting import acl, filecaps, worker_pool
from lxc_userns.rootfs.shifting.owners import Ids
from lxc_userns.rootfs.shifting.translation import Table, Translation
from tests.fuzz.mutation import mutated
from tests.unit.id_map_strategies import id_maps

_IDS = st.integers(0, 2**32 - 1) | st.sampled_from([0, 5, 1000, 65534])
_TAGS = st.sampled_from([0x01, 0x02, 0x04, 0x08, 0x10, 0x20])


@st.composite
def _acls(draw: st.DrawFn) -> bytes:
    entries = draw(
        st.lists(st.tuples(_TAGS, st.integers(0, 7), _IDS), max_size=8)
    )
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in entries
    )


@st.composite
def _capabilities(draw: st.DrawFn) -> bytes:
    sets = draw(st.binary(min_size=16, max_size=16))
    flags = draw(st.sampled_from([0, 1, 0xFFFFFF]))
    version_2 = struct.pack("<I", 0x02000000 | flags) + sets
    version_3 = struct.pack("<I", 0x03000000 | flags) + sets
    return draw(
        st.sampled_from(
            [
                struct.pack("<I", 0x01000000 | flags) + sets[:8],
                version_2,
                version_3 + struct.pack("<I", draw(_IDS)),
            ]
        )
    )


def _look_up(table: Table) -> Callable[[int], int]:
    return Ids(worker_pool.plain(table)).qualifier


def _is_free(maps: IdMaps, numbers: set[int]) -> bool:
    """Whether no ID is both a guest's and, by these maps, a host's."""
    return not any(
        number in entry.host_ids
        for number in numbers
        for _, entry in maps.entries
    )


@given(_acls() | mutated([struct.pack("<IHHI", 2, 2, 7, 1000)]), id_maps)
def acls(value: bytes, maps: IdMaps) -> None:
    """An ACL keeps its form, and comes back from a shift and an unshift."""
    there = Translation(None, maps).direct()
    back = Translation(maps, None).direct()
    shifted = acl.translate(value, _look_up(there.uid), _look_up(there.gid))
    assert len(shifted) == len(value)
    if (
        len(value) < 4
        or value[:4] != struct.pack("<I", 2)
        or len(value) % 8 != 4
    ):
        assert shifted == value
        return
    pairs = zip(
        struct.iter_unpack("<HHI", value[4:]),
        struct.iter_unpack("<HHI", shifted[4:]),
        strict=True,
    )
    found = set()
    for (tag, mode, number), (new_tag, new_mode, new) in pairs:
        assert (tag, mode) == (new_tag, new_mode)
        id_map = {0x02: maps.uid, 0x08: maps.gid}.get(tag)
        if id_map is None:
            assert new == number
        else:
            host = id_map.to_host(number)
            assert new == (number if host is None else host)
            found.add(number)
    if _is_free(maps, found):
        returned = acl.translate(
            shifted, _look_up(back.uid), _look_up(back.gid)
        )
        assert returned == value


@given(
    _capabilities() | mutated([struct.pack("<5I", 0x02000001, 1, 2, 3, 4)]),
    id_maps,
)
def capabilities(value: bytes, maps: IdMaps) -> None:
    """File capabilities never come to count for the host's users."""
    there = _look_up(Translation(None, maps).direct().uid)
    shifted = filecaps.translate(value, there)
    if shifted is None:
        assert not filecaps.is_of_host(value)
        return
    assert not filecaps.is_of_host(shifted)
    assert shifted[4:20].startswith(value[4:20])
    again = filecaps.translate(shifted, lambda number: number)
    assert again == shifted
