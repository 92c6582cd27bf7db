# SPDX-License-Identifier: Apache-2.0
"""Shift, unshift and verify the owners of a whole tree on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from lxc_userns.arguments import checked, refuse
from lxc_userns.exceptions import RootfsError
from lxc_userns.idmap import NOBODY_ID, IdMaps
from lxc_userns.rootfs.shifting import goals, links
from lxc_userns.rootfs.shifting.goals import Goal
from lxc_userns.rootfs.shifting.job import Job
from lxc_userns.rootfs.shifting.report import ShiftReport, VerifyReport
from lxc_userns.rootfs.shifting.state import POLICIES, State
from lxc_userns.rootfs.shifting.tree import READ_ONLY, Tree, open_tree
from lxc_userns.rootfs.shifting.worker_pool import Progress

_log = logging.getLogger(__name__)

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
) -> ShiftReport:
    """Make the owners of a tree the host IDs of its guest IDs.

    Shifting twice is the same as once, and the second time costs nothing. A
    tree that is shifted for other maps is shifted over to these; a shift
    that was interrupted is resumed, or taken back if these are the maps that
    the tree was shifted for before. Set-ID bits, file capabilities, ACLs and
    inode flags are as before, in terms of the new owners. Nothing that is
    mounted below the directory is touched. Device nodes become, or stay,
    root's alone. A file with names outside of the tree changes there too;
    that is logged as a warning. The soft limit of descriptors of this process
    is as high as the hard one meanwhile.

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
    :raises UnmappedIdsError: under ``error``, before anything has changed.
    :raises ExposedTreeError: before anything has changed, if users of the host
        can reach the tree and files in it would get other IDs than host IDs
        of these maps, for good (guest IDs that they do not cover) or on the
        way.
    :raises RootfsError: if the tree cannot be shifted, or changes all the
        time while it is walked. The text says "the tree is half-done" if it
        is, whether by this call or one before, and how to go on or back.
    """
    goal = Goal(id_maps, unmapped, strict, recheck)
    return reach(path, goal, workers, dry_run, progress, fd=fd)


def reach(
    path: Path,
    goal: Goal,
    workers: int | None,
    dry_run: bool,
    progress: Progress | None,
    *,
    fd: int | None = None,
    is_layer: bool = False,
) -> ShiftReport:
    """Shift a tree as :func:`shift` does, which has the other arguments.

    :param goal: what the tree shall be.
    :param is_layer: whether it is the upper layer of an overlay, whose index
        has names of its files: those are not worth a warning.
    """
    _check_policy(path, goal)
    with open_tree(path, shared=dry_run, fd=fd) as tree:
        report = Job(tree, workers, progress).reach(goal, dry_run)
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
        job = Job(tree, workers, progress)
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
                tree.path, "it was not shifted; give the ID maps to verify"
            )
        return Job(tree, workers, progress).verify(state, maps)


def read_state(path: Path, *, fd: int | None = None) -> State | None:
    """Read the state of a tree's shifts; None if it never was shifted.

    :param path: the root directory of the tree.
    :param fd: as for :func:`shift`.
    :raises RootfsError: if it cannot be read.
    """
    with open_tree(path, shared=True, fd=fd) as tree:
        return tree.read_state()


def _check_policy(path: Path, goal: Goal) -> None:
    """Refuse a policy for unmapped IDs that is none, or cannot be followed."""
    unmapped, maps = goal.unmapped, goal.maps
    if unmapped not in POLICIES:
        refuse(
            "shift", "unmapped", unmapped, f"expected {', '.join(POLICIES)}"
        )
    if (
        unmapped == "nobody"
        and maps is not None
        and None
        in (
            maps.shift_uid(NOBODY_ID),
            maps.shift_gid(NOBODY_ID),
        )
    ):
        raise RootfsError(
            os.fspath(path),
            "unmapped owners cannot become nobody: guest ID 65534 is not "
            "mapped; map it, or keep them",
        )


def _warn(tree: Tree, report: ShiftReport) -> None:
    links.warn(tree, report)
    for path in report.read_only_paths:
        _log.warning("%s: %s", path, READ_ONLY)
