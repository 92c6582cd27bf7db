# SPDX-License-Identifier: Apache-2.0
"""What somebody wants to have a lease of."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lxc_userns.instances import InstanceRecord
from lxc_userns.leases import Lease, Leases
from lxc_userns.pool import Pools


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to have a lease of.

    :param instance: name of the instance.
    :param uuid: its UUID, if that is known.
    :param size: number of IDs of either kind.
    :param known: what the instance was promised before.
    """

    instance: str
    uuid: str | None
    size: int
    known: InstanceRecord | None

    def fulfil(self, uid_start: int, gid_start: int) -> Lease:
        """The lease that starts there."""
        now = int(time.time())
        return Lease(
            self.instance, self.uuid, uid_start, gid_start, self.size, now
        )

    def keep_ids(self, pools: Pools, leases: Leases) -> Lease | None:
        """What it had before, if that can be a lease."""
        maps = None if self.known is None else self.known.id_maps
        if maps is None or len(maps.uid) != 1 or len(maps.gid) != 1:
            return None
        lease = self.fulfil(*maps.root)
        is_free = pools.have(lease) and not any(
            leases.meeting(kind, lease.ids(kind)) for kind, _ in pools
        )
        return lease if is_free and lease.is_for(maps) else None
