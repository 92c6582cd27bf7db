# SPDX-License-Identifier: Apache-2.0
"""State of a tree, and what it must not be made to believe."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.shifting.state import POLICIES, State, Work
from lxc_userns.rootfs.shifting.translation import Translation
from tests.unit.id_map_strategies import id_maps

MAP = IdMap.parse("0:100000:65536")
MAPS = IdMaps(MAP, MAP)
numbers = st.integers(0, 2**40)
maybe_maps = st.none() | id_maps


@st.composite
def states(draw: st.DrawFn) -> State:
    old, work = draw(maybe_maps), None
    if draw(st.booleans()):
        new = draw(maybe_maps)
        translation = Translation(old, new)
        transit = None
        if translation.needs_transit:
            transit = translation.find_transit(())
            assume(transit is not None)
        step = draw(st.integers(0, int(transit is not None)))
        work = Work(new, draw(st.sampled_from(POLICIES)), transit, step)
    owner = draw(st.none() | st.tuples(numbers, numbers))
    devices = draw(st.none() | numbers)
    return State(
        old, work, draw(numbers), draw(numbers), owner, devices, draw(numbers)
    )


@given(states())
def test_round_trip(state: State) -> None:
    assert State.decode(state.encode()) == state


@given(st.binary())
def test_no_bytes_crash(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text
        State.decode(data)


GOOD = json.loads(State(MAPS, Work(None, "keep")).encode())
WORK = GOOD["work"]


def with_work(**changes: object) -> dict[str, object]:
    return {**GOOD, "work": {**WORK, **changes}}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "malformed"),
        ({}, "malformed: 'version'"),
        ({**GOOD, "version": 2}, "version 2 is not known"),
        ({**GOOD, "maps": {"uid": "0:100000:65536"}}, "malformed: 'gid'"),
        ({**GOOD, "maps": {"uid": "0:0:9", "gid": "0:0:9"}}, "host ID 0"),
        ({**GOOD, "maps": {"uid": 5, "gid": 5}}, "malformed"),
        ({**GOOD, "inodes": None}, "malformed"),
        ({**GOOD, "inodes": float("inf")}, "malformed"),
        ({**GOOD, "unmapped": "x"}, "invalid literal"),
        ({**GOOD, "owner": 5}, "malformed"),
        ({**GOOD, "owner": [1, 2, 3]}, "too many values"),
        (with_work(unmapped="drop"), "policy 'drop' is not known"),
        (with_work(step=1), "there is no pass 1"),
        (with_work(step=-1), "there is no pass -1"),
        (with_work(transit=0, step=2), "there is no pass 2"),
        (with_work(transit=-1), "these are no IDs"),
        (with_work(transit=2**32 - 65536), "these are no IDs"),
    ],
)
def test_malformed(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        State.decode(json.dumps(value).encode())


@pytest.mark.parametrize("depth", [1, 60000])
def test_deeply_nested(depth: int) -> None:
    """Some versions of Python read it to its end."""
    with pytest.raises(ValueError, match=r"^malformed: "):
        State.decode(b"[" * depth)
    with pytest.raises(ValueError, match=r"^malformed: "):
        State.decode(b"[" * depth + b"]" * depth)


def test_highest_transit() -> None:
    data = json.dumps(with_work(transit=2**32 - 65537)).encode()
    assert State.decode(data).work == Work(None, "keep", 2**32 - 65537)
