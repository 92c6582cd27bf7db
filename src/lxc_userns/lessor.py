# SPDX-License-Identifier: Apache-2.0
"""The lessor: gives each instance a range of its own, and takes it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lxc_userns import leftovers, occupants
from lxc_userns.allocation import capacity, choose
from lxc_userns.exceptions import (
    ConfigError,
    LeaseError,
    PoolExhaustedError,
    PrerequisiteError,
)
from lxc_userns.filesystems import claims
from lxc_userns.hostids import Holder
from lxc_userns.idmap import IdMaps
from lxc_userns.idset import IdSet
from lxc_userns.instances import InstanceRecord, check_name
from lxc_userns.inventory import Inventory
from lxc_userns.leases import Lease, Leases, LeaseStore, ShiftedTree
from lxc_userns.pool import Pools, read_pools
from lxc_userns.survey import Survey, supply, why_exhausted

_LOG = logging.getLogger(__name__)
_OPTION = "[lxc_userns] subid_owner"


@dataclass(frozen=True, slots=True)
class Room:
    """How much of the pool is in use.

    :param pools: the pool, with all who hold IDs of it besides leases.
    :param size: the usual number of IDs of a lease.
    :param free: how many more of that size can be given.
    :param waiting: what is still shifted for ranges that were released, and
        keeps them from being leased again.
    """

    pools: Pools
    size: int
    free: int
    waiting: tuple[ShiftedTree, ...]


@dataclass(frozen=True, slots=True)
class Lessor:
    """Leases ranges from the pool of a host.

    :param inventory: what there is on the host.
    :param leases: who holds what.
    :param owner: whose subordinate IDs are the pool; empty: there is none.
    :param size: number of IDs of either kind that an instance gets unless it
        asks for another.
    """

    inventory: Inventory
    leases: LeaseStore
    owner: str
    size: int

    def find(self, instance: str) -> Lease | None:
        """The lease that an instance has."""
        check_name(instance)
        with self.leases.reading() as leases:
            return leases.get(instance)

    def acquire(
        self,
        instance: str,
        uuid: str | None = None,
        size: int | None = None,
        *,
        keep: bool = True,
    ) -> Lease:
        """Give an instance a lease, or the one that it has.

        One that it has stays as it is, also if the pool has changed since.

        :param instance: its name.
        :param uuid: its UUID, if that is known.
        :param size: number of IDs of either kind, 1 or more; None: that of
            the configuration, or whatever it has.
        :param keep: False: to see what it would get.
        :raises ConfigError: if there is no pool, or one from which nothing
            can be leased.
        :raises PoolExhaustedError: if all of it is in use.
        :raises LeaseError: if the lease of that name is another instance's,
            or of another size.
        """
        # Users, processes and libvirt are asked before: meanwhile nobody else
        # could lease anything.
        survey = None if self.find(instance) else self._look()
        with self._changing(keep=keep) as leases:
            lease = leases.get(instance)
            if lease is None:
                lease = self._choose(
                    leases,
                    survey or self._look(),
                    instance,
                    uuid,
                    size or self.size,
                )
                leases.add(lease)
                _LOG.info("%s: leased %s", instance, lease)
                return lease
            _check_same(lease, uuid, size)
            lease = leases.renew(instance, uuid) or lease
        self._warn_if_outside(lease)
        return lease

    def release(self, instance: str, expected: Lease | None = None) -> bool:
        """Take the lease of an instance back, if it has one.

        What was shifted on disk for it keeps its range from being leased
        again, for as long as it is.

        :param expected: what the lease has to be, or else it is left alone:
            somebody has asked for it again in between.
        :returns: whether it has none now.
        """
        check_name(instance)
        if not self.leases.is_there:
            return True
        with self._changing() as leases:
            lease = leases.get(instance)
            if expected not in (None, lease):
                return lease is None
            leases.promise(instance, None)
            if lease is not None:
                leases.remove(lease)
                _LOG.info("%s: released %s", instance, lease)
        return True

    def restore(self, instance: str, before: Lease | None) -> bool:
        """Have the lease of an instance be as it was, or have none again.

        :returns: whether it has none now.
        """
        if before is None:
            return self.release(instance)
        with self._changing() as leases:
            leases.promise(instance, None)
            lease = leases.get(instance)
            if lease is not None:
                leases.restore(before)
            return lease is None

    def release_unused(self, instance: str) -> None:
        """As :meth:`release`, for a lease that was acquired by itself.

        :raises LeaseError: if an instance was prepared with it, or anything
            runs with its IDs.
        """
        store = self.inventory.store
        with store.lock(instance):
            lease = self.find(instance)
            if lease is None:
                return
            if store.load(instance) is not None:
                raise LeaseError(
                    instance, "has its lease until it is destroyed or released"
                )
            for user in self.users(lease):
                raise LeaseError(
                    instance, f"its lease is in use by {user}; stop that first"
                )
            self.release(instance)

    def renew(self, instance: str) -> None:
        """Note that an instance is there."""
        with self._changing() as leases:
            leases.renew(instance, None)

    def note_missing(self, instance: str, now: int) -> Lease | None:
        """Note that libvirt may not know an instance, unless that is noted.

        :param now: in seconds of Unix time.
        :returns: its lease, None if it has none.
        """
        with self._changing() as leases:
            lease = leases.get(instance)
            if lease is not None and lease.missing is None:
                lease = replace(lease, missing=now)
                leases.restore(lease)
            return lease

    @contextmanager
    def settling(self, record: InstanceRecord) -> Iterator[None]:
        """Write down what an instance is promised, in the body.

        From then on no other instance gets a lease of its IDs.

        :raises LeaseError: if another instance has one already.
        """
        if not self.leases.is_there:
            yield
            # If the first lease of all was given meanwhile, whoever gave it
            # may have seen the record or not.
            if self.leases.is_there:
                with self._changing() as leases:
                    _promise(leases, record)
            return
        with self._changing() as leases:
            _promise(leases, record)
            yield

    def note_shift(self, path: str, id_maps: IdMaps) -> None:
        """Note that somebody is about to shift a tree by hand.

        :param path: absolute path without links.
        :param id_maps: for which ID maps.
        """
        if not self.leases.is_there:
            return
        with self._changing() as leases:
            for kind, entry in id_maps.entries:
                for lease in leases.meeting(kind, entry.host_ids):
                    leases.note_tree(lease, path)

    def users(self, lease: Lease) -> list[Holder]:
        """What runs with any of the IDs of a lease."""
        return [
            each.holder(self.inventory.guests)
            for each in occupants.running()
            if IdSet((lease.ids(each.kind),)).meets(each.ids)
        ]

    def room(self) -> Room:
        """How much of the pool is in use.

        :raises ConfigError: if there is no pool.
        :raises PrerequisiteError: if it cannot be asked for.
        """
        survey = self._look()
        with self.leases.reading() as leases:
            pools = survey.beside_leases(leases)
            held, waiting = leases.all(), leftovers.find(leases)
        occupied: list[Lease | ShiftedTree] = [*held, *waiting]
        free = []
        for kind, pool in pools:
            taken = IdSet.of(each.ids(kind) for each in occupied)
            free.append(capacity(pool.ids, pool.free - taken, self.size))
        return Room(pools, self.size, min(free), tuple(waiting))

    def _look(self) -> Survey:
        if not self.owner:
            raise ConfigError(
                _OPTION, "", "is empty: there is no pool to lease from"
            )
        return Survey.take(self.owner, self.inventory.guests)

    def _choose(
        self,
        leases: Leases,
        survey: Survey,
        instance: str,
        uuid: str | None,
        size: int,
    ) -> Lease:
        problems = survey.pools.problems(size)
        if problems:
            raise ConfigError(_OPTION, self.owner, "; ".join(problems))
        pools = survey.beside_leases(leases, instance)
        supplies = [supply(leases, kind, pool) for kind, pool in pools]
        starts = choose(supplies, size, self.size)
        for (kind, pool), start in zip(pools, starts, strict=True):
            if start is None:
                reason = why_exhausted(leases, kind, pool)
                raise PoolExhaustedError(
                    instance,
                    f"no range of {size} {pool.kind} IDs is left in the pool "
                    f"of {self.owner}: {reason}",
                )
        uid, gid = (start or 0 for start in starts)
        return Lease(instance, uuid, uid, gid, size, int(time.time()))

    @contextmanager
    def _changing(self, *, keep: bool = True) -> Iterator[Leases]:
        with self.leases.changing(keep=keep) as leases:
            if leases.is_new:
                # From the time before there were leases.
                for record in self.inventory.store.load_all():
                    leases.promise(record.name, record.id_maps)
            yield leases

    def _warn_if_outside(self, lease: Lease) -> None:
        if not self.owner:
            return
        try:
            pools = read_pools(self.owner)
        except PrerequisiteError as err:
            _LOG.warning("%s", err)
            return
        if not pools.have(lease):
            _LOG.warning(
                "%s: its lease (%s) is not, or no longer, in the pool of %s; "
                "it keeps it",
                lease.instance,
                lease,
                self.owner,
            )


def _check_same(lease: Lease, uuid: str | None, size: int | None) -> None:
    if None not in (uuid, lease.uuid) and uuid != lease.uuid:
        raise LeaseError(
            lease.instance,
            f"the instance {lease.uuid} has the lease of that name; release "
            "that one first",
        )
    if size not in (None, lease.count):
        raise LeaseError(
            lease.instance,
            f"has a lease of {lease.count} IDs, not of {size}; release it "
            "first",
        )


def _promise(leases: Leases, record: InstanceRecord) -> None:
    """Write down what an instance has, and what is shifted for its lease."""
    leases.promise(record.name, record.id_maps)
    lease = leases.renew(record.name, None)
    if lease is None or not _is_for(lease, record.id_maps):
        return
    for claim in claims(record):
        if claim.may_be_shifted:
            leases.note_tree(lease, claim.path)


def _is_for(lease: Lease, id_maps: IdMaps | None) -> bool:
    return id_maps is not None and all(
        entry.host_ids == lease.ids(kind) for kind, entry in id_maps.entries
    )
