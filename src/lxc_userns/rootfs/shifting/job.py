# SPDX-License-Identifier: Apache-2.0
"""A job on one tree: from what its files are to what they shall be."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise

from lxc_userns.arguments import refuse
from lxc_userns.exceptions import RootfsError, UnmappedIdsError
from lxc_userns.idmap import IdMaps
from lxc_userns.linux import subvolumes
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.shifting import goals, ipc, journal, links
from lxc_userns.rootfs.shifting.goals import Goal
from lxc_userns.rootfs.shifting.report import (
    Finding,
    ShiftReport,
    VerifyReport,
)
from lxc_userns.rootfs.shifting.state import State, Work
from lxc_userns.rootfs.shifting.translation import Translation
from lxc_userns.rootfs.shifting.tree import Tree, telling_if_half_done
from lxc_userns.rootfs.shifting.tree_walks import TreeWalks, plain_owners
from lxc_userns.rootfs.shifting.worker_pool import Progress, WalkResult
from lxc_userns.text import printable

#: Paths of read-only subvolumes that are shown, and findings.
_MOST_SHOWN = 10
_MOST_FINDINGS = 100


class Job:
    """Takes one tree from what it is to what it shall be.

    :param tree: the tree, opened and locked.
    :param workers: most worker processes; None or 0: one per CPU.
    :param progress: told the inodes walked so far.
    """

    def __init__(
        self, tree: Tree, workers: int | None, progress: Progress | None
    ) -> None:
        refusals.check_usable(tree.given, tree.path)
        self.tree = tree
        if workers is not None and not 0 <= workers <= ipc.MOST_WORKERS:
            expected = f"expected 0 to {ipc.MOST_WORKERS}"
            refuse("shift", "workers", workers, expected)
        cpus = workers or len(os.sched_getaffinity(0))
        workers = min(cpus, ipc.MOST_WORKERS)
        self.walks = TreeWalks(tree, workers, progress)

    def reach(self, goal: Goal, dry_run: bool = False) -> ShiftReport:
        """Shift for other maps, or back to guest IDs."""
        with telling_if_half_done(self.tree):
            state = self.tree.read_state() or State()
            self._check_root_owner(state, goal)
            if dry_run:
                return self._look_ahead(state, goal)
            self.tree.check_unflagged()
            if goals.is_done(self.tree, state, goal):
                return _known(state)
            self._check(state, goal)
            if state.work is not None:
                report, state = self._resume(state, goal)
                # It was walked just now.
                goal = replace(goal, recheck=False)
                if goals.is_done(self.tree, state, goal):
                    return report
            state = self._begin(state, goal)
            report, _ = self._work(state)
            return report

    def verify(self, state: State, maps: IdMaps) -> VerifyReport:
        """Find what is not as some ID maps say, and change nothing."""
        walked = self.walks.look(Translation(state.maps, maps).direct())
        findings = [
            Finding(self.tree.show(name), reason)
            for name, reason in walked.findings
        ]
        if state.work is not None:
            reason = "a shift was interrupted; run it again"
            findings.insert(0, Finding(self.tree.path, reason))
        return VerifyReport(
            walked.inodes,
            walked.shifted,
            walked.unmapped,
            tuple(findings[:_MOST_FINDINGS]),
        )

    def _look_ahead(self, state: State, goal: Goal) -> ShiftReport:
        """Count what would change.

        :raises RootfsError: if that is not to be, by ``strict``.
        """
        walked = self.walks.look(goals.remaining(state, goal))
        report = _report(walked, self.tree)
        if goal.strict:
            links.check_strict(self.tree, report)
        return report

    def _check_root_owner(self, state: State, goal: Goal) -> None:
        """Refuse a root directory that would be nobody's in the container.

        One that a shift is under way for was looked at before that.
        """
        if goal.maps is None or state.work is not None:
            return
        owners = plain_owners(goals.remaining(state, goal))
        status = os.fstat(self.tree.fd)
        found = status.st_uid, status.st_gid
        refusals.check_root_owner(
            self.tree.path,
            found,
            goal.maps,
            is_covered=owners[found].mapped,
        )

    def _check(self, state: State, goal: Goal) -> None:
        """Refuse what must not be done, before anything has changed."""
        way = [state.maps, goal.maps]
        work = state.work
        if work is not None:
            way.insert(0 if goals.goes_back(state, goal) else 1, work.maps)
        exposes = (work is not None and work.transit is not None) or any(
            Translation(old, new).leaves_host_ids for old, new in pairwise(way)
        )
        if exposes and not goal.is_hidden:
            self.tree.check_only_root_can_reach()
        if goal.strict:
            self._look_ahead(state, goal)

    def _begin(self, state: State, goal: Goal) -> State:
        """Look first where that is needed, and note what is to be done."""
        maps, unmapped = goal.maps, goal.unmapped
        translation = Translation(state.maps, maps, unmapped)
        transit = None
        if (
            unmapped == "error"
            or translation.needs_transit
            or subvolumes.may_be_read_only(self.tree.fd)
        ):
            walked = self.walks.look(translation.direct())
            self.tree.check_writable(walked.read_only)
            if unmapped == "error" and walked.unmapped:
                raise UnmappedIdsError(
                    self.tree.path, sorted(walked.uids), sorted(walked.gids)
                )
            if translation.needs_transit:
                transit = self._find_transit(translation, walked)
        state = replace(state, work=Work(maps, unmapped, transit))
        self.tree.begin(state)
        return state

    def _find_transit(
        self, translation: Translation, walked: WalkResult
    ) -> int:
        transit = translation.find_transit(walked.blocks)
        if transit is None:
            raise RootfsError(
                self.tree.path,
                "guest and host IDs overlap, and so many IDs are in use that "
                "no range is left to shift through; use maps that do not "
                "overlap",
            )
        return transit

    def _resume(self, state: State, goal: Goal) -> tuple[ShiftReport, State]:
        """Finish what is half-done, or take it back."""
        if subvolumes.may_be_read_only(self.tree.fd):
            walked = self.walks.look(goals.remaining(state, goal))
            self.tree.check_writable(walked.read_only)
        return self._work(state, back=goals.goes_back(state, goal))

    def _work(
        self, state: State, *, back: bool = False
    ) -> tuple[ShiftReport, State]:
        """Make all passes that are left, and note that all is done.

        :param back: whether to undo those that were made instead.
        """
        work = state.work or Work(state.maps, "keep")
        for number, each in goals.passes_left(state.maps, work, back):
            step = replace(state, work=replace(work, step=number))
            walked = self.walks.act(each, step)
        journal.forget(self.tree.fd)
        maps = state.maps if back else work.maps
        nobody = work.unmapped == "nobody" and not back
        return _report(walked, self.tree), self._finish(maps, walked, nobody)

    def _finish(
        self, maps: IdMaps | None, walked: WalkResult, nobody: bool
    ) -> State:
        if maps is None:
            self.tree.forget()
            return State()
        st = os.fstat(self.tree.fd)
        state = State(
            maps,
            None,
            walked.inodes,
            walked.unmapped_names if nobody else walked.unmapped,
            (st.st_uid, st.st_gid),
            walked.devices,
            walked.linked_outside,
            nobody,
        )
        self.tree.write_state(state)
        return state


def _report(walked: WalkResult, tree: Tree) -> ShiftReport:
    return ShiftReport(
        walked.inodes,
        walked.shifted,
        walked.unmapped,
        tuple(sorted(walked.uids)),
        tuple(sorted(walked.gids)),
        walked.devices,
        walked.linked_outside,
        tuple(f"{tree.path}/{printable(p)}" for p in walked.linked_paths),
        walked.split if links.are_split(tree) else 0,
        len(walked.read_only),
        tuple(sorted(map(tree.show, walked.read_only)))[:_MOST_SHOWN],
    )


def _known(state: State) -> ShiftReport:
    return ShiftReport(
        state.inodes,
        0,
        state.unmapped,
        devices=state.devices or 0,
        linked_outside=state.linked_outside,
    )
