# SPDX-License-Identifier: Apache-2.0
"""Request for a lease."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases import Lease, LeaseTransaction

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.instances.damaged import DamagedRecord
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.leases.pool import Pools


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """Request for a lease.

    :param instance: name of the instance.
    :param uuid: its UUID, if that is known.
    :param size: number of IDs of either kind.
    :param now: when it is made, in seconds of Unix time.
    :param has: ID maps that the instance has already.
    :param is_bound: whether it is not to get others.
    """

    instance: str
    uuid: str | None
    size: int
    now: int
    has: IdMaps | None
    is_bound: bool = False

    def at(self, uid_start: int, gid_start: int) -> Lease:
        """Return the lease that starts there."""
        return Lease(
            instance=self.instance,
            uuid=self.uuid,
            uid_start=uid_start,
            gid_start=gid_start,
            count=self.size,
            acquired=self.now,
        )

    def reuse_previous(
        self,
        pools: Pools,
        leases: LeaseTransaction,
        records: Iterable[InstanceRecord | DamagedRecord],
    ) -> Lease | None:
        """Return the previous IDs as a lease, if they can be one.

        :param pools: the pool; what runs does not count, for that may be it.
        :param records: what instances were promised: many may share a range.
        """
        maps = self.has
        if maps is None or len(maps.uid) != 1 or len(maps.gid) != 1:
            return None
        lease = self.at(*maps.root)
        if not lease.is_for(maps):
            return None
        ids = {kind: IdSet((lease.ids(kind),)) for kind, _ in pools}
        is_free = not any(
            ids[kind] - pool.free or leases.overlapping(kind, lease.ids(kind))
            for kind, pool in pools
        )
        is_shared = any(
            ids[kind].overlaps(held)
            for record in records
            if record.name != self.instance
            for kind, held in record.held_ids
        )
        return lease if is_free and not is_shared else None
