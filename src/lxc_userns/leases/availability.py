# SPDX-License-Identifier: Apache-2.0
"""Availability: who has what of the pool, and what is left to lease."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases.allocation import FreeRanges
from lxc_userns.subid.owners import IdOwner

if TYPE_CHECKING:
    from lxc_userns.idmap import Kind
    from lxc_userns.instances.damaged import DamagedRecord
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.leases import LeaseStore, LeaseTransaction, ShiftedTree
    from lxc_userns.leases.pool import Pool, Pools
    from lxc_userns.leases.running import ProcessTable, RunningIdMap
    from lxc_userns.libvirtd.status import RunningDomains

_LOG = logging.getLogger(__name__)
_MOST_NAMED = 3
_MOST_LINES = 20
_NOTHING = IdSet()


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """Snapshot of the pool, taken before others have to wait.

    :param pools: the pool, with whoever holds IDs of it for good.
    :param running: what ran with IDs of the pool.
    :param has_trees: whether anything was noted as shifted on disk.
    :param is_new: whether no instance ever had a lease.
    """

    pools: Pools
    running: tuple[RunningIdMap, ...]
    has_trees: bool
    is_new: bool

    @classmethod
    def read(
        cls,
        pools: Pools,
        processes: ProcessTable,
        domains: RunningDomains,
        store: LeaseStore,
    ) -> PoolSnapshot:
        """Look now.

        :param pools: the pool, read before.
        :param processes: what runs.
        :param domains: how to find out the names of what runs.
        """
        for text in pools.malformed[:_MOST_LINES]:
            _LOG.warning("%s; the line is ignored", text)
        if len(pools.malformed) > _MOST_LINES:
            more = len(pools.malformed) - _MOST_LINES
            _LOG.warning("%d more lines like these are ignored", more)
        ids = {kind: pool.ids for kind, pool in pools}
        found = [
            each
            for each in processes.id_maps()
            if ids[each.kind].overlaps(each.ids)
        ]
        with store.read() as leases:
            strange = [each for each in found if not _is_leased(leases, each)]
            has_trees, is_new = leases.has_trees, leases.is_new
        # Those with leases have names that are known.
        rest = [each for each in found if each not in strange]
        running = (*processes.with_names(strange, domains), *rest)
        return cls(pools, running, has_trees, is_new)

    def without(self, holders: Iterable[tuple[Kind, IdOwner]]) -> PoolSnapshot:
        """Return the same, with these holders of IDs for good too."""
        return replace(self, pools=self.pools.with_holders(holders))

    def with_holders(
        self,
        leases: LeaseTransaction,
        records: Iterable[InstanceRecord | DamagedRecord],
        instance: str | None = None,
    ) -> Pools:
        """Return the pools, with all who hold IDs of them besides leases.

        :param records: what instances were promised.
        :param instance: whose own ID maps do not count.
        """
        promised = [
            (kind, IdOwner(f"the instance {record.name} ({_show(ids)})", ids))
            for record in records
            if record.name != instance
            for kind, ids in _promised(leases, record)
        ]
        known = {
            kind: IdSet.of(holder.ids for of, holder in promised if of == kind)
            for kind, _ in self.pools
        }
        # Of those, many run too, as do most that have a lease.
        others = [
            (each.kind, each.holder)
            for each in self.running
            if not _is_leased(leases, each, known[each.kind])
        ]
        return self.pools.with_holders((*others, *promised))


def free_ranges(
    leases: LeaseTransaction,
    kind: Kind,
    pool: Pool,
    waiting: Iterable[ShiftedTree] | None,
) -> FreeRanges:
    """Return the free ranges that a lease can be made of.

    :param waiting: what keeps IDs from being leased again; None: that is not
        known, and only what no one ever had can be leased.
    """
    new = pool.free - leases.used(kind)
    if waiting is None:
        return FreeRanges(pool.ids, new)
    usable = pool.free - IdSet.of(e.ids for e in waiting if e.kind == kind)
    return FreeRanges(pool.ids, new, _released(leases, kind, usable))


def find_waiting(
    leases: LeaseTransaction, looked_at: Mapping[ShiftedTree, bool]
) -> list[ShiftedTree]:
    """Return the shifted trees that keep IDs from being leased again.

    :param looked_at: whether what was shifted still is; what has come since
        counts as if it were.
    """
    trees = leases.released_trees()
    return [tree for tree in trees if looked_at.get(tree, True)]


def is_promised(pools: Pools, tree: ShiftedTree) -> bool:
    """Return whether somebody has the IDs of a tree, though not by a lease.

    :param pools: the pools beside leases.
    """
    holders = dict(pools)[tree.kind].holders
    return tree.ids in IdSet.of(holder.ids for holder in holders)


def why_exhausted(
    leases: LeaseTransaction,
    kind: Kind,
    pool: Pool,
    waiting: Iterable[ShiftedTree],
) -> str:
    """Return why nothing is left, with the names of those who have it."""
    leased = pool.ids & IdSet.of(each.ids(kind) for each in leases.all())
    reasons = [f"{len(leased)} of its {len(pool.ids)} IDs are leased"]
    if pool.holders:
        reasons.append(f"some are held by {pool.describe_holders()}")
    paths = dict.fromkeys(
        tree.path
        for tree in waiting
        if tree.kind == kind and pool.ids.overlaps(tree.ids)
    )
    if paths:
        reasons.append(
            "some were released, but are still on disk, so remove or unshift "
            + ", ".join([*paths][:_MOST_NAMED])
        )
    return "; ".join(reasons)


def _released(
    leases: LeaseTransaction, kind: Kind, usable: IdSet
) -> Iterator[range]:
    """Yield ranges to lease again, the longest released first."""
    for ids in leases.released(kind):
        yield from IdSet((ids,)) & usable


def _is_leased(
    leases: LeaseTransaction, occupant: RunningIdMap, besides: IdSet = _NOTHING
) -> bool:
    """Return whether all that it has is leased or known otherwise."""
    held = leases.overlapping(occupant.kind, occupant.ids)
    leased = IdSet.of(lease.ids(occupant.kind) for lease in held)
    return not IdSet((occupant.ids,)) - leased - besides


def _promised(
    leases: LeaseTransaction, record: InstanceRecord | DamagedRecord
) -> Iterator[tuple[Kind, range]]:
    """Yield the IDs of an instance, but for those of its lease."""
    held = [*record.held_ids]
    lease = leases.get(record.name) if held else None
    for kind, ids in held:
        if lease is None or ids != lease.ids(kind):
            yield kind, ids


def _show(ids: range) -> str:
    return f"{ids.start}:{len(ids)}"
