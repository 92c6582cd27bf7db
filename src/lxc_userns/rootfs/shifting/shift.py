# SPDX-License-Identifier: Apache-2.0
"""Shift, unshift and verify the owners of a whole tree on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Final

from lxc_userns.arguments import checked, refuse
from lxc_userns.exceptions import RootfsError, UnmappedIdsError
from lxc_userns.idmap import NOBODY_ID, IdMaps
from lxc_userns.linux import subvolumes
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.shifting import goals, ipc, journal, links
from lxc_userns.rootfs.shifting.goals import Goal
from lxc_userns.rootfs.shifting.report import (
    Finding,
    ShiftReport,
    VerifyReport,
)
from lxc_userns.rootfs.shifting.state import POLICIES, State, Work
from lxc_userns.rootfs.shifting.translation import Translation
from lxc_userns.rootfs.shifting.tree import (
    READ_ONLY,
    Tree,
    open_tree,
    telling_if_half_done,
)
from lxc_userns.rootfs.shifting.tree_walks import TreeWalks, plain_owners
from lxc_userns.rootfs.shifting.worker_pool import Progress, WalkResult
from lxc_userns.text import printable

_log = logging.getLogger(__name__)
#: Paths of read-only subvolumes that are shown.
_MOST_SHOWN = 10

Path = str | os.PathLike[str]


_CALLED: Final = {
    "path": (str, os.PathLike),
    "workers": (int, type(None)),
    "progress": (Callable, type(None)),
}


@checked(**_CALLED, id_maps=IdMaps, unmapped=str)
def shift(
    path: Path,
    id_maps: IdMaps,
    *,
    unmapped: str = "keep",
    workers: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    strict: bool = False,
    recheck: bool = False,
    fd: int | None = None,
    is_hidden: bool = False,
    is_layer: bool = False,
) -> ShiftReport:
    """Make the owners of a tree the host IDs of its guest IDs.

    Shifting twice is the same as once, and the second time costs nothing. A
    tree that is shifted for other maps is shifted over to these; a shift
    that was interrupted is resumed, or taken back if these are the maps that
    the tree was shifted for before. Set-ID bits, file capabilities, ACLs and
    inode flags are as before, in terms of the new owners. Nothing that is
    mounted below the directory is touched. Device nodes become, or stay,
    root's alone.

    A file with names outside of the tree changes there too; that is logged
    as a warning. The soft limit of descriptors of this process is as high as
    the hard one meanwhile.

    :param path: the root directory of the tree; not a symbolic link.
    :param id_maps: the maps to shift for.
    :param unmapped: what becomes of owners that the maps do not cover:
        ``keep`` leaves them, ``nobody`` makes them guest ID 65534,
        ``error`` changes nothing and raises.
    :param workers: most worker processes, 1..256; None or 0: one per CPU.
    :param dry_run: only count.
    :param progress: called with the inodes walked so far, some ten times a
        second; it starts again for each walk over the tree.
    :param strict: change nothing and raise if there are such files, or if
        names (hard links) would be split on an overlay without an index.
    :param recheck: walk the tree even if it says that all is done. A tree of
        unknown origin may say so and lie.
    :param fd: descriptor of the directory, if it is open; the path is then
        only for messages.
    :param is_hidden: whether it is on a mount of the caller's that nothing
        leads to, so that no user of the host can reach it.
    :param is_layer: whether it is the upper layer of an overlay, whose index
        has names of its files: those are not worth a warning.
    :raises UnmappedIdsError: under ``error``, before anything has changed.
    :raises ExposedTreeError: before anything has changed, if users of the host
        can reach the tree and files in it would get other IDs than host IDs
        of the maps: guest IDs that it was shifted for and these do not
        cover, or a range on the way.
    :raises RootfsError: if the tree cannot be shifted, or changes all the
        time while it is walked. The text says "the tree is half-done" if it
        is, whether by this call or one before, and how to go on or back.
    """
    if unmapped not in POLICIES:
        refuse(
            "shift", "unmapped", unmapped, f"expected {', '.join(POLICIES)}"
        )
    if unmapped == "nobody" and None in (
        id_maps.shift_uid(NOBODY_ID),
        id_maps.shift_gid(NOBODY_ID),
    ):
        raise RootfsError(
            os.fspath(path),
            "unmapped owners cannot become nobody: guest ID 65534 is not "
            "mapped",
        )
    with open_tree(path, shared=dry_run, fd=fd) as tree:
        goal = Goal(id_maps, unmapped, strict, recheck, is_hidden)
        report = _Job(tree, workers, progress).reach(goal, dry_run)
        if not is_layer:
            _warn(tree, report)
        return report


def is_done(fd: int, path: str, id_maps: IdMaps, unmapped: str) -> bool:
    """Return whether :func:`shift` would walk no file of a tree.

    :param fd: descriptor of its root directory.
    :param path: its path, for messages.
    """
    with open_tree(path, shared=True, fd=fd) as tree:
        state = tree.read_state() or State()
        return goals.is_done(tree, state, Goal(id_maps, unmapped))


@checked(**_CALLED)
def unshift(
    path: Path,
    *,
    fd: int | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ShiftReport:
    """Give a shifted tree its guest IDs back, and forget the shift.

    What an interrupted shift has changed is taken back, from any moment:
    whatever is in the way of finishing it need not be out of the way.

    :param path: the root directory of a tree that :func:`shift` has shifted.
    :param fd: as for :func:`shift`.
    :param workers: most worker processes, 1..256; None or 0: one per CPU.
    :param dry_run: only count.
    :param progress: as for :func:`shift`.
    :raises ExposedTreeError: if users of the host can reach the tree, before
        anything has changed: what its container has made set-user-ID would be
        theirs to run as root.
    :raises RootfsError: if the tree does not say what it is shifted for, or
        cannot be unshifted; the text is as that of :func:`shift`.
    """
    with open_tree(path, shared=dry_run, fd=fd) as tree:
        job = _Job(tree, workers, progress)
        if tree.read_state() is None:
            raise RootfsError(tree.path, "it was not shifted")
        report = job.reach(Goal(None), dry_run)
        _warn(tree, report)
        return report


@checked(**_CALLED, id_maps=(IdMaps, type(None)))
def verify(
    path: Path,
    id_maps: IdMaps | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Look whether every inode of a tree is as the maps say.

    :param path: the root directory of the tree.
    :param id_maps: the maps; None: those the tree was shifted for.
    :param workers: most worker processes, 1..256; None or 0: one per CPU.
    :param progress: as for :func:`shift`.
    :raises RootfsError: if the tree cannot be read, or neither it nor the
        caller says for which maps.
    """
    with open_tree(path, shared=True) as tree:
        state = tree.read_state() or State()
        maps = state.maps if id_maps is None else id_maps
        if maps is None:
            raise RootfsError(
                tree.path, "it was not shifted, and no ID maps are given"
            )
        return _verify(_Job(tree, workers, progress), state, maps)


def read_state(path: Path, *, fd: int | None = None) -> State | None:
    """Read the state of a tree's shifts; None if it never was shifted.

    :param path: the root directory of the tree.
    :param fd: as for :func:`shift`.
    :raises RootfsError: if it cannot be read.
    """
    with open_tree(path, shared=True, fd=fd) as tree:
        return tree.read_state()


def _verify(job: _Job, state: State, maps: IdMaps) -> VerifyReport:
    walked = job.walks.look(Translation(state.maps, maps).direct())
    findings = [
        Finding(job.tree.show(name), reason)
        for name, reason in walked.findings
    ]
    if state.work is not None:
        findings.insert(
            0, Finding(job.tree.path, "a shift was interrupted; run it again")
        )
    return VerifyReport(
        walked.inodes, walked.shifted, walked.unmapped, tuple(findings[:100])
    )


class _Job:
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


def _warn(tree: Tree, report: ShiftReport) -> None:
    links.warn(tree, report)
    for path in report.read_only_paths:
        _log.warning("%s: %s", path, READ_ONLY)
