# SPDX-License-Identifier: Apache-2.0
"""Walks over a whole tree, the root directory last."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import subvolumes
from lxc_userns.rootfs.shifting import inode, journal, worker_pool
from lxc_userns.rootfs.shifting.owners import Ids, Owners
from lxc_userns.rootfs.shifting.state import State
from lxc_userns.rootfs.shifting.translation import Pass
from lxc_userns.rootfs.shifting.tree import Tree
from lxc_userns.rootfs.shifting.worker_pool import (
    Progress,
    WalkResult,
    WalkTask,
)

_log = logging.getLogger(__name__)
#: Findings of one walk that are logged.
_MOST_SHOWN = 10
#: Walks over a tree that changes all the time, until that is an error.
_MOST_WALKS = 8


class TreeWalks:
    """Walks over one tree.

    :param tree: the tree, opened and locked.
    :param workers: most worker processes, 1..256.
    :param progress: told the inodes walked so far.
    """

    def __init__(
        self, tree: Tree, workers: int, progress: Progress | None
    ) -> None:
        self._tree = tree
        self._workers = workers
        self._progress = progress

    def look(self, step: Pass) -> WalkResult:
        """Walk the tree and change nothing."""
        seeks = subvolumes.may_be_read_only(self._tree.fd)
        task = replace(self._task(step), seeks_read_only=seeks)
        return self._walk(task).plus(self._visit_root(step))

    def act(self, step: Pass, state: State) -> WalkResult:
        """Make a pass: walk the tree until nothing was missed.

        :param state: what the tree is to remember meanwhile.
        :raises RootfsError: if it changes all the time.
        """
        shifted = split = 0
        for _ in range(_MOST_WALKS):
            since = self._tree.write_state_again(state)
            task = replace(self._task(step), acts=True, since=since)
            walked = self._walk(task)
            shifted += walked.shifted
            split += walked.split
            self._warn(walked)
            if walked.put_off and not walked.missed:
                # Those that are left are on no inode of the tree.
                journal.forget(self._tree.fd)
            elif not walked.missed:
                walked = replace(walked, shifted=shifted, split=split)
                root = self._visit_root(step, acts=True)
                self._warn(root)
                return walked.plus(root)
        raise RootfsError(
            self._tree.path,
            "changed while it was shifted; stop what writes to it",
        )

    def _warn(self, walked: WalkResult) -> None:
        for path, reason in walked.findings[:_MOST_SHOWN]:
            _log.warning("%s: %s", self._tree.show(path), reason)

    def _task(self, step: Pass) -> WalkTask:
        left = journal.read_notes(self._tree.fd)
        return WalkTask(
            self._tree.fd, step, False, left, self._workers, self._tree.lock
        )

    def _walk(self, task: WalkTask) -> WalkResult:
        return worker_pool.walk(task, self._tree.path, self._progress)

    def _visit_root(self, step: Pass, *, acts: bool = False) -> WalkResult:
        path = self._tree.proc_path
        st = os.fstat(self._tree.fd)
        owners = plain_owners(step)
        change = inode.plan(
            st,
            inode.read_xattrs(path),
            owners,
            to_host=step.devices.seals,
        )
        reason = "not shifted" if change else ""
        if acts:
            reason = inode.LOST if change.lost else ""
            inode.apply(path, change)
        return WalkResult(
            inodes=1,
            shifted=int(bool(change)),
            unmapped=int(not change.mapped),
            unmapped_names=int(not change.names_mapped),
            uids=frozenset(owners.uids.unmapped),
            gids=frozenset(owners.gids.unmapped),
            blocks=frozenset(owners.uids.blocks | owners.gids.blocks),
            findings=((os.readlink(path), reason),) if reason else (),
        )


def plain_owners(step: Pass) -> Owners:
    """Return the translation of owners of a pass, as workers have it."""
    return Owners(*(Ids(worker_pool.plain(t)) for t in (step.uid, step.gid)))
