# SPDX-License-Identifier: Apache-2.0
"""Preparation of an instance before its domain can start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from lxc_userns.exceptions import (
    InstanceError,
    RootfsError,
    RunningError,
    UnpreparedError,
)
from lxc_userns.instances import renewal, steps
from lxc_userns.instances.conflicts import path_uses
from lxc_userns.instances.failures import Failure, Failures
from lxc_userns.instances.given_files import identities
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.linux import journal
from lxc_userns.rollback import undo
from lxc_userns.rootfs.views import strategies
from lxc_userns.rootfs.views.source import RootfsSource, check_program
from lxc_userns.rootfs.views.strategies import Progress, ShiftOptions

if TYPE_CHECKING:
    from lxc_userns.config.settings import Settings
    from lxc_userns.idmap import IdMaps
    from lxc_userns.instances.instances import Instances
    from lxc_userns.leases.allocator import LeaseAllocator
    from lxc_userns.resources import ControlGroups

_LOG = logging.getLogger(__name__)

#: Adds ID maps to what is promised, given that and what was before.
AssignIdMaps = Callable[
    [InstanceRecord, InstanceRecord | None], InstanceRecord
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """One instance on its way from a promise to views that are mounted.

    :param instances: what there is on the host.
    :param allocator: who gives no other instance its IDs.
    :param settings: how to shift, and what unpacking an archive may take.
    :param progress: called with the number of inodes seen so far.
    :param program: what the root filesystem of a new instance has to have.
    :param grow: whether an image's is grown to all of it.
    :param groups: control groups of the containers.
    :param failures: counts those of it.
    :param is_bounded: whether to refuse what walks a tree.
    """

    instances: Instances
    allocator: LeaseAllocator
    settings: Settings
    progress: Progress | None = None
    program: str | None = None
    grow: bool = False
    groups: ControlGroups
    failures: Failures
    is_bounded: bool = False

    def allocate(
        self, wanted: InstanceRecord, assign_id_maps: AssignIdMaps
    ) -> InstanceRecord:
        """Give an instance its ID maps, and nothing else.

        :param wanted: what is to be promised.
        :param assign_id_maps: adds its ID maps.
        """
        store = self.instances.store
        with store.lock(wanted.name), ExitStack() as stack:
            known = store.load(wanted.name)
            record = self._assign_id_maps(wanted, known, assign_id_maps, stack)
            if known is not None and known.id_maps != record.id_maps:
                if self.instances.is_active(known):
                    raise RunningError(record.name, "allocate")
                self._check_not_weaker(record, known, known.id_maps)
            return renewal.keep_dropped(record, known)

    def run(
        self,
        wanted: InstanceRecord,
        assign_id_maps: AssignIdMaps | None = None,
        *,
        accept_replaced: bool = False,
    ) -> InstanceRecord:
        """Do all that is not done yet.

        :param wanted: what is promised; its strategy may be ``auto``.
        :param assign_id_maps: adds its ID maps; None: it is to be as it was
            last promised.
        :param accept_replaced: whether what the host gives it may be other
            files than at first.
        :returns: the record as it is kept.
        :raises UnpreparedError: if it would take as long as a tree is large,
            and must not.
        """
        start = time.monotonic()
        store = self.instances.store
        with (
            self.failures.counting(Failure.PREPARATION),
            store.lock(wanted.name),
            ExitStack() as stack,
        ):
            known = renewal.with_kind(store.load(wanted.name), wanted)
            if known is not None:
                self.instances.files.check_view(
                    known, is_kept=assign_id_maps is None
                )
            if assign_id_maps is not None:
                wanted = self._assign_id_maps(
                    wanted, known, assign_id_maps, stack
                )
                steps.log(wanted.name, steps.allocate(wanted))
            else:  # It may have been promised something else meanwhile.
                wanted = renewal.promised(wanted, known)
            record = renewal.renew(wanted, known, accept_replaced)
            if known is not None and self.instances.is_active(known):
                self._check_running(record, known)
                _warn_of_host_mode(known)
                return known
            self._check_startable(record, known)
            if known is None:
                undo(stack, store.remove, record.name)
                undo(stack, self.instances.files.remove, record.name)
            ready = self._prepare(record, known, stack)
        _log_ready(ready, time.monotonic() - start)
        _warn_of_host_mode(ready)
        return ready

    def _assign_id_maps(
        self,
        wanted: InstanceRecord,
        known: InstanceRecord | None,
        assign_id_maps: AssignIdMaps,
        stack: ExitStack,
    ) -> InstanceRecord:
        before = self.allocator.find(wanted.name)
        undo(stack, self.allocator.restore_lease, wanted.name, before)
        record = assign_id_maps(wanted, known)
        if known is None and before is not None:
            self._check_not_weaker(record, known, before.id_maps)
        return record

    def _prepare(
        self,
        record: InstanceRecord,
        known: InstanceRecord | None,
        stack: ExitStack,
    ) -> InstanceRecord:
        store, files = self.instances.store, self.instances.files
        empty = dict(record.empty)
        sources = stack.enter_context(
            files.given.opened_volumes(record, empty)
        )
        record = self._unpack(record, known)
        root = stack.enter_context(files.given.opened_root(record))
        trees = [root.fd, *(source.fd for source in sources)]
        stack.enter_context(store.lock_trees(trees))
        record = replace(record, identities=identities(root, sources))
        self._check_unused(record)
        opened = files.opened(record, root.fd, empty, grow=self.grow)
        tree = stack.enter_context(opened)
        if known is None and self.program is not None:
            check_program(tree, self.program)
        record = files.choose(record, tree)
        self._check_unused(record)
        # What is about to start has not been verified.
        ready = replace(record, ready=tree.inode, verified=None)
        # An image can be written anew and be the same file.
        is_done = known is not None and renewal.is_same(known, ready)
        recheck = tree.inode is None or not is_done
        options = self._shift_options(recheck=recheck)
        self._check_bounded(record, tree, options)
        if known is not None and known.id_maps != record.id_maps:
            files.unmount(record.name)
        # What is not ready yet must not pass for it after a crash.
        self._promise(ready if is_done else record, known)
        steps.log(record.name, *steps.shift(record))
        files.prepare_tree(record, tree, options)
        if not record.named:
            files.give_own_names(record, tree)
        ready = replace(ready, empty=dict(empty), named=True)
        store.save(ready)
        undo(stack, files.unmount, record.name)
        steps.log(record.name, *steps.mount(record))
        files.mount(record, tree, sources, options)
        if empty != ready.empty:
            ready = replace(ready, empty=empty)
            store.save(ready)
        undo(stack, self.groups.remove, record.name)
        self.groups.make(record.name, record.max_processes)
        return ready

    def _unpack(
        self, record: InstanceRecord, known: InstanceRecord | None
    ) -> InstanceRecord:
        """Unpack its archive, if it has one that was not."""
        files = self.instances.files
        if record.archive is None:
            return record
        if not files.is_unpacked(record):
            if self.is_bounded:
                raise UnpreparedError(record.name, "its archive: not unpacked")
            steps.log(record.name, steps.unpack(record))
        # Before the first change, so that release can undo them all.
        self._promise(known or record, known)
        return files.unpack(record, self.settings.unpack_limits, self.progress)

    def _check_bounded(
        self, record: InstanceRecord, tree: RootfsSource, options: ShiftOptions
    ) -> None:
        """Refuse what would walk a tree, if that must not be."""
        if self.is_bounded and strategies.would_walk(
            record.strategy, tree, record.id_maps, options
        ):
            raise UnpreparedError(
                record.name, f"{tree.path}: not all files were looked at"
            )

    def _shift_options(self, *, recheck: bool) -> ShiftOptions:
        """Return how to shift.

        :param recheck: whether to walk a tree that says that it is shifted.
        """
        return ShiftOptions(
            self.settings.unmapped_ids,
            recheck,
            self.settings.shift_workers or None,
            self.progress,
        )

    def _promise(
        self, record: InstanceRecord, known: InstanceRecord | None
    ) -> None:
        with self.allocator.commit_record(record, known):
            self.instances.store.save(record)

    def _check_unused(self, record: InstanceRecord) -> None:
        mine = path_uses(record)
        for one, other in combinations(mine, 2):
            if one.conflicts_with(other):
                raise RootfsError(
                    one.path,
                    f"cannot be used as {one.strategy} while {other.path} is "
                    f"as {other.strategy}, by the same instance",
                )
        self.instances.check_unused(mine, besides=record.name)

    def _check_running(
        self, record: InstanceRecord, known: InstanceRecord
    ) -> None:
        was, wanted = (replace(each, ready=None) for each in (known, record))
        if renewal.ignoring_reasons(was) != renewal.ignoring_reasons(wanted):
            raise RunningError(record.name, "prepare")
        if not self.instances.files.is_mounted(record.name):
            raise InstanceError(
                record.name,
                f"is running, but its view {record.view} is not mounted; "
                "stop its domain, then call prepare",
            )
        self.instances.files.given.check_only_root_can_reach(record)

    def _check_startable(
        self, record: InstanceRecord, known: InstanceRecord | None
    ) -> None:
        self._check_replaceable(record, known)
        self.groups.check_start(
            record.name, record.id_maps, self.instances.running
        )

    def _check_replaceable(
        self, record: InstanceRecord, known: InstanceRecord | None
    ) -> None:
        if self.instances.running.find(record.name) is not None:
            raise RunningError(record.name, "prepare")
        if known is None:
            return
        if renewal.own_files(known) != renewal.own_files(record):
            raise InstanceError(
                record.name,
                f"is {self.instances.state_of(known)} with files of its own, "
                f"by the strategy {known.strategy} from "
                f"{known.archive or known.rootfs}, and would lose them; call "
                "release first",
            )
        self._check_not_weaker(record, known, known.id_maps)

    def _check_not_weaker(
        self,
        record: InstanceRecord,
        known: InstanceRecord | None,
        promised: IdMaps | None,
    ) -> None:
        """Refuse to take away the user namespace that was promised."""
        if promised is not None and record.id_maps is None:
            raise InstanceError(
                record.name,
                f"is {self.instances.state_of(known)} with the ID maps "
                f"{promised.uid} and {promised.gid}, and is to be in the "
                "host's user namespace now "
                f"({'; '.join(record.mode_reasons)}); call release first",
            )


def _log_ready(ready: InstanceRecord, seconds: float) -> None:
    _LOG.info(
        "%s: %s is prepared by strategy %s in %.3f s: %s",
        *(ready.name, ready.rootfs, ready.strategy, seconds, ready.reason),
        extra={journal.INSTANCE: ready.name},
    )


def _warn_of_host_mode(record: InstanceRecord) -> None:
    """Say so each time, also if nothing at all is configured."""
    if record.mode == "host":
        _LOG.warning(
            "%s: runs in the host's user namespace, and its root is the "
            "host's: %s",
            record.name,
            "; ".join(record.mode_reasons),
            extra={journal.INSTANCE: record.name},
        )
