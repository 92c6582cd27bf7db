# SPDX-License-Identifier: Apache-2.0
"""A survey of the pool: who has what of it, and what is left to lease."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from lxc_userns import leftovers, occupants
from lxc_userns.allocation import Supply
from lxc_userns.guest import Guests
from lxc_userns.hostids import Holder
from lxc_userns.idmap import KINDS, Kind
from lxc_userns.idset import IdSet
from lxc_userns.leases import Leases
from lxc_userns.occupants import Occupant
from lxc_userns.pool import Pool, Pools, read_pools

_LOG = logging.getLogger(__name__)
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Survey:
    """What there was when somebody looked.

    :param pools: the pool, with whoever holds IDs of it for good.
    :param running: what ran, and with which IDs of the pool.
    :param guests: how to find out what that is.
    """

    pools: Pools
    running: tuple[Occupant, ...]
    guests: Guests

    @classmethod
    def take(cls, owner: str, guests: Guests) -> Survey:
        """Look now.

        :param owner: value of ``[lxc_userns] subid_owner``.
        :raises PrerequisiteError: if the source of subordinate IDs cannot be
            asked.
        """
        pools = read_pools(owner)
        for text in pools.malformed:
            _LOG.warning("%s; it is not heeded", text)
        ids = {kind: pool.ids for kind, pool in pools}
        running = (
            each
            for each in occupants.running()
            if ids[each.kind].meets(each.ids)
        )
        return cls(pools, tuple(running), guests)

    def beside_leases(
        self, leases: Leases, instance: str | None = None
    ) -> Pools:
        """The pools, with all who hold IDs of them besides leases.

        :param instance: whose ID maps do not count.
        """
        others: list[tuple[Kind, Holder]] = [
            (kind, Holder(f"the instance {name} ({_show(ids)})", ids))
            for kind in KINDS
            for name, ids in leases.promised(kind)
            if name != instance
        ]
        # Of these, many run too, as do most that have a lease.
        known = {
            kind: IdSet.of(holder.ids for of, holder in others if of == kind)
            for kind in KINDS
        }
        for each in self.running:
            held = leases.meeting(each.kind, each.ids)
            leased = IdSet.of(lease.ids(each.kind) for lease in held)
            if IdSet((each.ids,)) - known[each.kind] - leased:
                others.append((each.kind, each.holder(self.guests)))
        return self.pools.beside(others)


def _show(ids: range) -> str:
    return f"{ids.start}:{len(ids)}"


def supply(leases: Leases, kind: Kind, pool: Pool) -> Supply:
    """What a lease can be made of."""
    new = pool.free - leases.used(kind)
    return Supply(pool.ids, new, _released(leases, kind, pool))


def _released(leases: Leases, kind: Kind, pool: Pool) -> Iterator[range]:
    """What can be leased again, the longest released first."""
    waiting = leftovers.find(leases)
    leases.keep_trees(waiting)
    usable = pool.free - IdSet.of(tree.ids(kind) for tree in waiting)
    for ids in leases.released(kind):
        yield from IdSet((ids,)) & usable


def why_exhausted(leases: Leases, kind: Kind, pool: Pool) -> str:
    """Why nothing is left, with the names of those who have it."""
    leased = pool.ids & IdSet.of(each.ids(kind) for each in leases.all())
    reasons = [f"{len(leased)} of its {len(pool.ids)} IDs are leased"]
    if pool.holders:
        reasons.append(f"some are held by {pool.describe_holders()}")
    paths = dict.fromkeys(
        tree.path
        for tree in leftovers.find(leases)
        if pool.ids.meets(tree.ids(kind))
    )
    if paths:
        reasons.append(
            "some were released, but are still on disk, so remove or unshift "
            + ", ".join([*paths][:_MOST_NAMED])
        )
    return "; ".join(reasons)
