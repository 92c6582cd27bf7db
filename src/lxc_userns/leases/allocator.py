# SPDX-License-Identifier: Apache-2.0
"""The allocator: gives each instance a range of its own, and takes it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import TYPE_CHECKING

from lxc_userns.exceptions import (
    ConfigError,
    LeaseError,
    PoolExhaustedError,
)
from lxc_userns.idmap import ID_LIMIT, TTY_GID, IdMaps
from lxc_userns.instances.record import (
    InstanceRecord,
    check_name,
    name_taken,
)
from lxc_userns.leases import (
    Lease,
    LeaseStore,
    LeaseTransaction,
    ShiftedTree,
    shifted_trees,
)
from lxc_userns.leases.allocation import choose
from lxc_userns.leases.availability import (
    PoolSnapshot,
    find_waiting,
    free_ranges,
    why_exhausted,
)
from lxc_userns.leases.host_pool import OPTION, HostPool
from lxc_userns.leases.request import LeaseRequest
from lxc_userns.subid.unlisted import Asked

if TYPE_CHECKING:
    from lxc_userns.instances.instances import Instances

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseAllocator:
    """Leases ranges from the pool of a host.

    :param pool: the pool, and who has what of it.
    :param clock: gives the seconds of Unix time.
    """

    pool: HostPool
    clock: Callable[[], float] = time.time

    @property
    def instances(self) -> Instances:
        """Return the instances of the host."""
        return self.pool.instances

    @property
    def leases(self) -> LeaseStore:
        """Return the leases of the host."""
        return self.pool.leases

    def find(self, instance: str) -> Lease | None:
        """Return the lease that an instance has."""
        check_name(instance)
        with self.leases.read() as leases:
            return leases.get(instance)

    def acquire(
        self,
        instance: str,
        uuid: str | None = None,
        size: int | None = None,
        *,
        keep: bool = True,
        known: InstanceRecord | None = None,
    ) -> Lease:
        """Give an instance a lease, or the one that it has.

        One that it has stays as it is, also if the pool has changed since.

        :param instance: its name.
        :param uuid: its UUID, if that is known.
        :param size: number of IDs of either kind, 6 or more; None: that of
            the configuration, or whatever it has.
        :param keep: False: to see what it would get.
        :param known: what it was promised before, and may be given anew. If
            these are IDs of the pool that could be a lease, it keeps them.
            None: what has a record, or runs without one, keeps what it has,
            or is refused.
        :raises ConfigError: if there is no pool, or one from which nothing
            can be leased.
        :raises PoolExhaustedError: if all of it is in use.
        :raises LeaseError: if the lease of that name is another instance's,
            or of another size, or there is no such size.
        """
        if size is not None and not TTY_GID < size < ID_LIMIT:
            raise LeaseError(
                instance,
                f"range_size {size}: expected {TTY_GID + 1}..{ID_LIMIT - 1}",
            )
        while True:
            lease = self._confirm(instance, uuid, size, keep)
            if lease is not None:
                self.pool.warn_of_changes(lease)
                return lease
            request = self._request(instance, uuid, size, known)
            lease = self._add(request, keep)
            if lease is not None:
                return lease

    def release(
        self,
        instance: str,
        record: InstanceRecord | None = None,
        expected: Lease | EllipsisType | None = ...,
    ) -> bool:
        """Take back what an instance has.

        What was shifted on disk for it keeps the IDs from being leased again,
        for as long as it is.

        :param record: what it was promised, with a lease or without.
        :param expected: its lease as it has to be, None for none, or else
            it is left alone: somebody has asked for it again in between.
        :returns: whether it has no lease now.
        """
        check_name(instance)
        if not self.leases.exists:
            return True
        with self.leases.write() as leases:
            lease = leases.get(instance)
            if expected not in (..., lease):
                return lease is None
            if record is not None:
                _mark_used(leases, record)
            if lease is not None:
                leases.remove(lease)
                _LOG.info("%s: released %s", instance, lease)
        return True

    def restore_lease(self, instance: str, before: Lease | None) -> bool:
        """Restore the lease of an instance as it was, or remove it.

        It stays if the instance was promised it meanwhile.

        :returns: whether it has none now.
        """
        if not self.leases.exists:
            return True
        with self.leases.write() as leases:
            lease = leases.get(instance)
            record = self.instances.store.load(instance)
            if lease is None or (record and lease.is_for(record.id_maps)):
                return lease is None
            if before is None:
                leases.remove(lease)
            else:
                leases.restore(before)
            return before is None

    def release_unused(self, instance: str) -> None:
        """Release a lease like :meth:`release`, if it was acquired by itself.

        :raises LeaseError: if an instance was prepared with it, or anything
            runs with its IDs.
        """
        store = self.instances.store
        with store.lock(instance):
            lease = self.find(instance)
            if lease is None:
                return
            if store.load(instance) is not None:
                raise LeaseError(
                    instance, "has its lease until it is destroyed or released"
                )
            for user in self.pool.users(lease):
                raise LeaseError(
                    instance, f"its lease is in use by {user}; stop that first"
                )
            self.release(instance)

    def confirm(self, instance: str) -> None:
        """Note that an instance is there."""
        with self.leases.write() as leases:
            leases.confirm(instance, None)

    def mark_missing(self, instance: str, now: int) -> Lease | None:
        """Note that libvirt may not know an instance, unless that is noted.

        :param now: in seconds of Unix time.
        :returns: its lease, None if it has none.
        """
        with self.leases.write() as leases:
            lease = leases.get(instance)
            # A note of the future is of a clock that was set back since.
            if (
                lease is not None
                and not 0 <= (lease.unknown_since or -1) <= now
            ):
                lease = replace(lease, unknown_since=now)
                leases.restore(lease)
            return lease

    @contextmanager
    def commit_record(
        self, record: InstanceRecord, known: InstanceRecord | None = None
    ) -> Iterator[None]:
        """Write down what an instance is promised, in the body.

        From then on no other instance gets a lease of its IDs.

        :param known: what it was promised before.
        :raises LeaseError: if another instance has one already.
        """
        if not self.leases.exists:
            yield
            # If the first lease of all was given meanwhile, whoever gave it
            # may have seen the record or not.
            if self.leases.exists:
                with self.leases.write() as leases:
                    _commit(leases, record, known)
            return
        with self.leases.write() as leases:
            _commit(leases, record, known)
            yield

    def _request(
        self,
        instance: str,
        uuid: str | None,
        size: int | None,
        known: InstanceRecord | None,
    ) -> LeaseRequest:
        """Return what to look for; of what has IDs it may have been lost."""
        has, is_bound = self._find_maps(instance, known)
        had = has.size if has and is_bound else None
        return LeaseRequest(
            instance=instance,
            uuid=uuid,
            size=size or had or self.pool.size,
            now=int(self.clock()),
            has=has,
            is_bound=is_bound,
        )

    def _find_maps(
        self, instance: str, known: InstanceRecord | None
    ) -> tuple[IdMaps | None, bool]:
        """Return an instance's ID maps, and whether it is bound to them."""
        record = known or self.instances.store.load(instance)
        if record is not None:
            return record.id_maps, known is None and record.mode == "private"
        running = self.instances.running_maps(instance)
        return running, running is not None

    def _confirm(
        self, instance: str, uuid: str | None, size: int | None, keep: bool
    ) -> Lease | None:
        """Return the lease that an instance has, None if it has none."""
        if self.find(instance) is None:
            return None
        with self.leases.write(keep=keep) as leases:
            lease = leases.get(instance)
            if lease is not None:
                self._check_same(lease, uuid, size)
            return leases.confirm(instance, uuid)

    def _add(self, request: LeaseRequest, keep: bool) -> Lease | None:
        """Give a new lease, None if the instance has got one meanwhile."""
        snapshot, asked = self.pool.read_snapshot(), Asked(request.instance)
        # Nothing to look at is as good as looked at.
        looked_at: Mapping[ShiftedTree, bool] | None = None
        if not snapshot.has_trees:
            looked_at = {}
        while True:
            with self.leases.write(keep=keep) as leases:
                if leases.get(request.instance) is not None:
                    return None
                lease = self._choose(leases, snapshot, request, looked_at)
                if lease is not None and (
                    lease.is_for(request.has) or asked.cover(lease)
                ):
                    leases.add(lease)
                    if keep:
                        _LOG.info("%s: leased %s", lease.instance, lease)
                    return lease
            # It can take long, so no one has to wait meanwhile.
            if lease is None:
                looked_at = self.pool.scan_trees()
            else:
                snapshot = snapshot.without(asked.find_unlisted(lease))

    def _choose(
        self,
        leases: LeaseTransaction,
        snapshot: PoolSnapshot,
        request: LeaseRequest,
        looked_at: Mapping[ShiftedTree, bool] | None,
    ) -> Lease | None:
        """Return a new lease; None if what is on disk has to be looked at."""
        problems = snapshot.pools.problems(request.size)
        if problems:
            raise ConfigError(OPTION, self.pool.owner, "; ".join(problems))
        records = self.instances.store.load_all()
        kept = request.reuse_previous(snapshot.pools, leases, records)
        if kept is not None:
            return kept
        if request.is_bound:
            raise LeaseError(
                request.instance,
                f"has the ID maps {request.has}, which cannot be a lease: "
                "they are no free range of the pool; it keeps them until it "
                "is stopped and destroyed",
            )
        pools = snapshot.with_holders(leases, records, request.instance)
        waiting = None
        if looked_at is not None:
            leases.forget_trees(
                tree
                for tree in leases.released_trees()
                if looked_at.get(tree) is False
            )
            waiting = find_waiting(leases, looked_at)
        supplies = [free_ranges(leases, *each, waiting) for each in pools]
        starts = choose(supplies, request.size, self.pool.size)
        if None not in starts:
            return request.at(*(start or 0 for start in starts))
        if waiting is None:
            return None
        for (kind, pool), start in zip(pools, starts, strict=True):
            if start is None:
                raise PoolExhaustedError(
                    request.instance,
                    f"no range of {request.size} {pool.kind} IDs is left in "
                    f"the pool of {self.pool.owner}: "
                    + why_exhausted(leases, kind, pool, waiting),
                )
        return None

    def _check_same(
        self, lease: Lease, uuid: str | None, size: int | None
    ) -> None:
        name = lease.instance
        if None not in (uuid, lease.uuid) and uuid != lease.uuid:
            reason = name_taken(self._state_of(name), str(lease.uuid), name)
            raise LeaseError(name, reason)
        if size not in (None, lease.count):
            raise LeaseError(
                name,
                f"is {self._state_of(name)} with a lease of {lease.count} "
                f"IDs, not of {size}; call release first",
            )

    def _state_of(self, name: str) -> str:
        return self.instances.state_of(self.instances.store.load(name))


def _commit(
    leases: LeaseTransaction,
    record: InstanceRecord,
    known: InstanceRecord | None,
) -> None:
    """Note what an instance has, and has no more."""
    if record.id_maps is not None:
        leases.check_unleased(record.name, record.id_maps)
    leases.confirm(record.name, None)
    shifted_trees.record(leases, record)
    if known is not None and known.id_maps != record.id_maps:
        _mark_used(leases, known)


def _mark_used(leases: LeaseTransaction, record: InstanceRecord) -> None:
    """Take back what an instance has without a lease."""
    shifted_trees.record(leases, record)
    if record.id_maps is not None:
        leases.mark_used(record.id_maps)
