# SPDX-License-Identifier: Apache-2.0
"""Pool of a host, as it is configured, and who has what of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lxc_userns.exceptions import ConfigError, PrerequisiteError
from lxc_userns.idmap.idset import IdSet
from lxc_userns.idmap.ranges import overlap
from lxc_userns.leases import Lease, LeaseStore, ShiftedTree, shifted_trees
from lxc_userns.leases.allocation import capacity
from lxc_userns.leases.availability import (
    PoolSnapshot,
    find_waiting,
    is_promised,
)
from lxc_userns.leases.pool import Pools, read_pools
from lxc_userns.leases.running import ProcessTable

if TYPE_CHECKING:
    from lxc_userns.instances.instances import Instances
    from lxc_userns.subid.owners import IdOwner

_LOG = logging.getLogger(__name__)
#: The option that names the pool.
OPTION = "[lxc_userns] subid_owner"
_MOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUsage:
    """Usage of the pool.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPool:
    """Pool of a host.

    :param instances: what there is on the host.
    :param leases: who holds what.
    :param owner: whose subordinate IDs are the pool; empty: there is none.
    :param size: number of IDs of either kind that an instance gets unless it
        asks for another.
    :param processes: what runs.
    :param read: reads the pools of an owner.
    :param read_state: reads what a tree says of itself.
    """

    instances: Instances
    leases: LeaseStore
    owner: str
    size: int
    processes: ProcessTable = field(default_factory=ProcessTable)
    read: Callable[[str], Pools] = read_pools
    read_state: Callable[[str], bytes] = shifted_trees.read_state

    def read_snapshot(self) -> PoolSnapshot:
        """Read who has what of it now.

        :raises ConfigError: if there is no pool.
        :raises PrerequisiteError: if it cannot be asked for.
        """
        if not self.owner:
            raise ConfigError(
                OPTION, "", "is empty: there is no pool to lease from"
            )
        snapshot = PoolSnapshot.read(
            self.read(self.owner),
            self.processes,
            self.instances.running,
            self.leases,
        )
        if snapshot.is_new:
            self._warn_if_lost(snapshot.pools)
        return snapshot

    def users(self, lease: Lease) -> list[IdOwner]:
        """Return the processes that run with any of the IDs of a lease."""
        found = [
            each
            for each in self.processes.id_maps()
            if overlap(lease.ids(each.kind), each.ids)
        ]
        named = self.processes.with_names(found, self.instances.running)
        return [each.holder for each in named]

    def scan_trees(self) -> dict[ShiftedTree, bool]:
        """Return whether what was shifted for IDs that are free still is."""
        return shifted_trees.scan(self.leases, self.read_state)

    def usage(self) -> PoolUsage:
        """Return how much of the pool is in use.

        :raises ConfigError: if there is no pool.
        :raises PrerequisiteError: if it cannot be asked for.
        """
        snapshot, looked_at = (
            self.read_snapshot(),
            self.scan_trees(),
        )
        records = self.instances.store.load_all()
        with self.leases.read() as leases:
            pools = snapshot.with_holders(leases, records)
            held = leases.all()
            waiting = find_waiting(leases, looked_at)
        free = []
        for kind, pool in pools:
            taken = [lease.ids(kind) for lease in held]
            taken += [tree.ids for tree in waiting if tree.kind == kind]
            left = pool.free - IdSet.of(taken)
            free.append(capacity(pool.ids, left, self.size))
        # What an instance has without a lease is not given back yet.
        waiting = [tree for tree in waiting if not is_promised(pools, tree)]
        return PoolUsage(
            pools=pools,
            size=self.size,
            free=min(free),
            waiting=tuple(waiting),
        )

    def warn_of_changes(self, lease: Lease) -> None:
        """Warn if a lease is not, or no longer, of the pool alone."""
        if not self.owner:
            return
        try:
            pools = self.read(self.owner)
        except PrerequisiteError as err:
            _LOG.warning("%s", err)
            return
        if not pools.contains(lease):
            _LOG.warning(
                "%s: its lease (%s) is not, or no longer, in the pool of %s; "
                "it keeps it",
                lease.instance,
                lease,
                self.owner,
            )
        for kind, pool in pools:
            held = IdSet((lease.ids(kind),))
            others = replace(pool, ids=held, holders=()).with_holders(
                pool.holders
            )
            if others.holders:
                _LOG.warning(
                    "%s: of its lease (%s) others have IDs by now: %s; give "
                    "these others, or release the instance",
                    lease.instance,
                    lease,
                    others.describe_holders(),
                )

    def _warn_if_lost(self, pools: Pools) -> None:
        """Warn if no one ever had a lease, and yet somebody has had one."""
        names = [
            record.name
            for record in self.instances.store.load_all()
            if any(
                dict(pools)[of].ids.overlaps(ids)
                for of, ids in record.held_ids
            )
        ]
        with self.leases.read() as leases:
            # Somebody may have got the first one of all meanwhile.
            is_lost = leases.is_new
        if names and is_lost:
            shown = ", ".join(names[:_MOST])
            more = f" and {len(names) - _MOST} more" if names[_MOST:] else ""
            _LOG.warning(
                "%s has no leases, and instances have IDs of the pool of %s: "
                "%s; if it was lost, restore a backup of it before more is "
                "leased: what was returned, and is still on disk for that, "
                "is not known without",
                self.leases.file,
                self.owner,
                shown + more,
            )
