# SPDX-License-Identifier: Apache-2.0
"""Laws of what becomes of owners."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from lxc_userns.idmap import ID_LIMIT, IdMap, IdMaps
from lxc_userns.rootfs.shifting import worker_pool
from lxc_userns.rootfs.shifting.owners import Ids
from lxc_userns.rootfs.shifting.translation import (
    BLOCK,
    Pass,
    Segment,
    Translation,
    translate_map,
)
from tests.unit.id_map_strategies import host_id_maps, id_maps

maybe_maps = st.none() | id_maps
maps_with_nobody = st.builds(
    IdMaps, host_id_maps(least=65535), host_id_maps(least=65535)
)
translations = st.builds(
    Translation, maybe_maps, maybe_maps, st.sampled_from(("keep", "error"))
) | st.builds(Translation, maybe_maps, maps_with_nobody, st.just("nobody"))


def interesting(each: Translation) -> st.SearchStrategy[int]:
    """IDs at and around the ends of every range."""
    edges = {0, 65534, ID_LIMIT - 1}
    for maps in (each.old, each.new):
        for entry in maps.uid if maps else ():
            for start in (entry.guest, entry.host):
                edges |= {start - 1, start, start + entry.count - 1}
                edges.add(start + entry.count)
    return st.sampled_from(sorted(e for e in edges if 0 <= e < ID_LIMIT))


def move(step: Pass, uid: int) -> int:
    return Ids(worker_pool.plain(step.uid))[uid]


def passes(each: Translation, uids: list[int]) -> list[Pass]:
    transit = None
    if each.needs_transit:
        transit = each.find_transit({uid // BLOCK for uid in uids})
        if transit is None:
            reject()
    return list(each.passes(transit))


def run(each: Translation, uids: list[int]) -> list[int]:
    for step in passes(each, uids):
        uids = [move(step, uid) for uid in uids]
    return uids


@given(translations, st.data())
def test_each_pass_is_idempotent(
    each: Translation, data: st.DataObject
) -> None:
    uids = data.draw(st.lists(interesting(each), min_size=1))
    for step in passes(each, uids):
        uids = [move(step, uid) for uid in uids]
        assert [move(step, uid) for uid in uids] == uids


@given(translations, st.data())
def test_passes_are_the_direct_way(
    each: Translation, data: st.DataObject
) -> None:
    uids = data.draw(st.lists(interesting(each), min_size=1))
    assert run(each, uids) == [move(each.direct(), uid) for uid in uids]


@given(translations, st.data())
def test_interrupted_between_any_two_inodes(
    each: Translation, data: st.DataObject
) -> None:
    uids = data.draw(st.lists(interesting(each), min_size=1))
    whole = run(each, uids)
    now = uids
    for step in passes(each, uids):
        done = data.draw(st.integers(0, len(uids)))
        half = [move(step, uid) for uid in now[:done]] + now[done:]
        now = [move(step, uid) for uid in half]
    assert now == whole


@given(translations, st.data())
def test_transit_range_is_no_one_elses(
    each: Translation, data: st.DataObject
) -> None:
    uids = data.draw(st.lists(interesting(each), min_size=1))
    assume(each.needs_transit)
    to, on = passes(each, uids)
    taken = {*uids, on.uid.nobody, on.gid.nobody} - {None}
    for kind, segments in (("uid", to.uid.segments), ("gid", to.gid.segments)):
        for between in [segment.targets for segment in segments]:
            assert not any(number in between for number in taken)
            assert 0 <= between.start < between.stop <= ID_LIMIT
            for maps in filter(None, (each.old, each.new)):
                for entry in getattr(maps, kind):
                    assert not set_meets(between, entry.host_ids)
            for other in segments:
                assert not set_meets(between, other.sources)
                assert other is segments[-1] or (
                    other.targets == between
                    or not set_meets(between, other.targets)
                )


def set_meets(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


@given(id_maps, st.data())
def test_a_shift_is_the_map(maps: IdMaps, data: st.DataObject) -> None:
    shift = Translation(None, maps)
    uid = data.draw(interesting(shift))
    expected = maps.shift_uid(uid)
    assert run(shift, [uid]) == [uid if expected is None else expected]


@given(id_maps, st.data())
def test_unshift_undoes_a_shift(maps: IdMaps, data: st.DataObject) -> None:
    uid = data.draw(interesting(Translation(None, maps)))
    # An unmapped owner within a host range counts as shifted already.
    assume(maps.shift_uid(uid) is not None or maps.unshift_uid(uid) is None)
    shifted = run(Translation(None, maps), [uid])
    assert run(Translation(maps, None), shifted) == [uid]


@given(id_maps, id_maps, st.data())
def test_a_reshift_is_a_fresh_shift(
    one: IdMaps, other: IdMaps, data: st.DataObject
) -> None:
    fresh = Translation(None, other)
    uid = data.draw(interesting(replace(fresh, old=one)))
    for maps in (one, other):
        assume(
            maps.shift_uid(uid) is not None or maps.unshift_uid(uid) is None
        )
    # What is unmapped at first must not look like shifted to the other.
    assume(one.shift_uid(uid) is not None or one.unshift_uid(uid) is None)
    shifted = run(Translation(None, one), [uid])
    assert run(Translation(one, other), shifted) == run(fresh, [uid])


@given(id_maps, st.data())
def test_shifting_a_shifted_tree_again(
    maps: IdMaps, data: st.DataObject
) -> None:
    again = Translation(maps, maps)
    host = data.draw(interesting(again))
    assume(maps.unshift_uid(host) is not None)
    assert run(again, [host]) == [host]


@given(maps_with_nobody, st.data())
def test_nobody_leaves_no_unmapped_owner(
    maps: IdMaps, data: st.DataObject
) -> None:
    each = Translation(None, maps, "nobody")
    uids = data.draw(st.lists(interesting(each), min_size=1))
    for old, new in zip(uids, run(each, uids), strict=True):
        assert maps.unshift_uid(new) is not None
        if maps.shift_uid(old) is None and maps.unshift_uid(old) is None:
            assert new == maps.shift_uid(65534)


def test_nobody_within_the_old_host_range() -> None:
    """Nobody is also where an owner of the old map lives.

    Guest 65534 is a host ID of the old map, so that no segment leads to the
    new nobody, which another segment starts from.
    """
    old = maps("0:60000:10000")
    new = maps("0:1000000:65534,65534:65000:1")
    each = Translation(old, new, "nobody")
    assert each.needs_transit
    assert run(each, [80000]) == [65000]
    assert run(each, [65000]) == [1005000]


def maps(text: str) -> IdMaps:
    return IdMaps(IdMap.parse(text), IdMap.parse(text))


@pytest.mark.parametrize(
    ("old", "new", "segments"),
    [
        (None, None, []),
        (None, "0:100000:9", [(0, 100000, 9)]),
        ("0:100000:9", None, [(100000, 0, 9)]),
        ("0:100000:9", "0:100000:9", [(0, 100000, 9)]),
        # The smaller map gives back what it lacks; the larger takes more.
        (
            "0:100000:9",
            "0:200000:6",
            [(0, 200000, 6), (100000, 200000, 6), (100006, 6, 3)],
        ),
        (
            "0:100000:6",
            "0:200000:9",
            [(0, 200000, 9), (100000, 200000, 6)],
        ),
        # Guest IDs that are host IDs as well are taken for host IDs.
        ("0:5:10", None, [(5, 0, 10)]),
        ("0:5:10", "0:5:10", [(0, 5, 5)]),
        # What does not change is no segment.
        (None, "0:100000:6,7:7:1", [(0, 100000, 6)]),
    ],
)
def test_segments(
    old: str | None, new: str | None, segments: list[tuple[int, int, int]]
) -> None:
    pair = [None if text is None else IdMap.parse(text) for text in (old, new)]
    found = translate_map(*pair)
    assert [(s.source, s.target, s.count) for s in found] == segments


@pytest.mark.parametrize(
    ("old", "new", "needed"),
    [
        (None, "0:100000:65536", False),
        (None, "0:65536:65536", False),
        (None, "0:65535:65536", True),
        (None, "0:1000:65536", True),
        ("0:1000:65536", None, True),
        ("0:1000:65536", "0:1000:65536", False),
        ("0:100000:65536", "0:200000:65536", False),
        ("0:100000:65536", "0:165536:65536", False),
        ("0:100000:65536", "0:165535:65536", True),
        ("0:100000:65536", "0:65536:65536", True),
    ],
)
def test_needs_transit(old: str | None, new: str | None, needed: bool) -> None:
    pair = [None if text is None else maps(text) for text in (old, new)]
    each = Translation(pair[0], pair[1])
    assert each.needs_transit is needed


def test_no_room_for_transit() -> None:
    half = maps(f"0:1:{ID_LIMIT - 1}")
    assert Translation(None, half).find_transit([0]) is None
    free = Translation(None, maps("0:1000:65536"))
    assert free.find_transit(range(65536)) is None
    assert free.find_transit(range(65535)) is None  # One ID is missing.
    assert free.find_transit(range(65534)) == ID_LIMIT - 65536


@pytest.mark.parametrize(
    "numbers",
    [(0, 0, 0), (-1, 5, 1), (5, -1, 1), (0, ID_LIMIT, 1), (ID_LIMIT, 0, 1)],
)
def test_no_segment_of_no_ids(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="these are no IDs"):
        Segment(*numbers)
