# SPDX-License-Identifier: Apache-2.0
"""Laws of the way back from a half-done shift."""

from hypothesis import given, reject
from hypothesis import strategies as st

from lxc_userns.idmap import NOBODY_ID
from lxc_userns.rootfs.shifting import worker_pool
from lxc_userns.rootfs.shifting.owners import Ids
from lxc_userns.rootfs.shifting.translation import BLOCK, Pass, Translation
from lxc_userns.rootfs.shifting.way_back import WayBack
from tests.unit.rootfs.shifting.test_translation import (
    interesting,
    translations,
)


def move(step: Pass, uid: int) -> int:
    return Ids(worker_pool.plain(step.uid))[uid]


def finish(passes: list[Pass], uid: int) -> int:
    for each in passes:
        uid = move(each, uid)
    return uid


def has_a_nobody(each: Translation) -> bool:
    """Whether one whom the policy has made nobody can be so before, too.

    Not if the old maps lack guest ID 65534 and use that as a host ID.
    """
    if each.unmapped != "nobody" or each.old is None:
        return True
    lacks_it = each.old.uid.to_host(NOBODY_ID) is None
    return not lacks_it or each.old.uid.to_guest(NOBODY_ID) is None


@given(st.data(), translations)
def test_there_and_back(data: st.DataObject, each: Translation) -> None:
    """From any moment, and what was on the way changes nothing."""
    uid = data.draw(interesting(each))
    transit = each.find_transit({uid // BLOCK}) if each.needs_transit else None
    if each.needs_transit and transit is None:
        reject()
    forward = list(each.passes(transit))
    way_back = WayBack(each.old, each.new, transit)
    back = way_back.passes()
    assert len(back) == len(forward)
    step = data.draw(st.integers(0, len(forward) - 1))
    before = finish(forward[:step], uid)
    after = move(forward[step], before)
    now = data.draw(st.sampled_from((before, after)))
    # To and fro within the pass that was under way.
    for direction in data.draw(st.lists(st.sampled_from((forward, back)))):
        now = move(direction[step], now)
    assert finish(forward[step:], now) == finish(forward, uid)
    there = finish(list(back[step::-1]), now)
    if has_a_nobody(each):
        assert finish(forward, there) == finish(forward, uid)
    moves = any(uid in part.sources for part in each.uid_segments)
    if each.old is None and moves and each.unmapped != "nobody":
        assert there == uid
    assert move(way_back.remaining(step), now) == there


@given(translations)
def test_twice_is_once(each: Translation) -> None:
    transit = each.find_transit(()) if each.needs_transit else None
    if each.needs_transit and transit is None:
        reject()
    for step in WayBack(each.old, each.new, transit).passes():
        assert step.uid.is_idempotent
        assert step.gid.is_idempotent


@given(translations)
def test_leads_to_ids_of_before(each: Translation) -> None:
    """The maps lead back, and a host ID of the old maps to itself."""
    (step,) = WayBack(each.old, each.new, None).passes()
    for segment in step.uid.segments:
        for uid in (segment.targets[0], segment.targets[-1]):
            assert move(each.direct(), uid) in segment.sources or (
                each.unmapped == "nobody"
            )
