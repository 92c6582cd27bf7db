# SPDX-License-Identifier: Apache-2.0
"""Goals of a shift: what a tree shall be, and what is left to do for that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lxc_userns.idmap import IdMaps
from lxc_userns.rootfs.shifting.state import State, Work
from lxc_userns.rootfs.shifting.translation import Pass, Translation
from lxc_userns.rootfs.shifting.tree import Tree
from lxc_userns.rootfs.shifting.way_back import WayBack


@dataclass(frozen=True, slots=True)
class Goal:
    """A tree as it shall be; see :func:`shift`.

    :param maps: what it shall be shifted for, None for guest IDs.
    :param is_hidden: whether it is on a mount of the caller's that nothing
        leads to, so that no user of the host can reach it.
    """

    maps: IdMaps | None
    unmapped: str = "keep"
    strict: bool = False
    recheck: bool = False
    is_hidden: bool = False


def is_done(tree: Tree, state: State, goal: Goal) -> bool:
    """Return whether a tree is what it shall be, by a look at its root."""
    if state.work is not None or goal.recheck:
        return False
    if state.maps != goal.maps or goal.maps is None:
        return state.maps == goal.maps
    # An older version has given device nodes away.
    if state.devices is None or _keeps_too_much(state, goal):
        return False
    if state.linked_outside and goal.strict:
        return False
    # The root directory changes last, so that somebody who has chowned the
    # whole tree since shows in it.
    st = os.fstat(tree.fd)
    return state.owner == (st.st_uid, st.st_gid)


def _keeps_too_much(state: State, goal: Goal) -> bool:
    """Return whether an earlier shift has left what this one must not."""
    if goal.unmapped == "nobody" and state.nobody:
        return False
    return bool(state.unmapped) and goal.unmapped != "keep"


def goes_back(state: State, goal: Goal) -> bool:
    """Return whether what is half-done is to be undone rather than finished.

    It may be that it cannot be finished, and then there is no other way.
    """
    return (
        state.work is not None
        and state.work.maps != goal.maps
        and goal.maps in (None, state.maps)
    )


def passes_left(
    maps: IdMaps | None, work: Work, back: bool
) -> Sequence[tuple[int, Pass]]:
    """Return what is left to do, or to undo, and under which number.

    :param maps: what the tree was shifted for before.
    """
    if back:
        undone = WayBack(maps, work.maps, work.transit).passes()
        return [*enumerate(undone)][work.step :: -1]
    passes = Translation(maps, work.maps, work.unmapped).passes(work.transit)
    return [*enumerate(passes)][work.step :]


def remaining(state: State, goal: Goal) -> Pass:
    """Return what is left to do, as one pass to look at, not to make."""
    work = state.work or Work(goal.maps, goal.unmapped)
    if goes_back(state, goal):
        way = WayBack(state.maps, work.maps, work.transit)
        return way.remaining(work.step)
    translation = Translation(state.maps, work.maps, work.unmapped)
    return translation.remaining(work.transit, work.step)
