# SPDX-License-Identifier: Apache-2.0
"""A database of leases, with a pool that nobody else leases from."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from benchmarks.measure import clock
from lxc_userns.idmap.idset import IdSet
from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import Lease, LeaseStore
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.leases.host_pool import HostPool
from lxc_userns.libvirtd.client import Guests
from lxc_userns.subid import owners

#: IDs of each lease.
SIZE = 65536
_OWNER = "bench"
# Above what systemd gives to anybody; only counted with, never used.
_FIRST = 1 << 31


class Database:
    """A database.

    :param path: directory for it, and for what stands for files of ``/etc``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        state = str(path / "state")
        files = Filesystems(state, str(path / "run"))
        inventory = Instances(InstanceStore(state), files, Guests())
        self.store = LeaseStore(state)
        pool = HostPool(
            instances=inventory, leases=self.store, owner=_OWNER, size=SIZE
        )
        self.allocator = LeaseAllocator(pool)

    @classmethod
    def made(cls, path: Path, held: int, room: int) -> Database:
        """Make one.

        :param held: how many leases it holds.
        :param room: how many more the pool has room for.
        """
        path.mkdir()
        count = (held + room) * SIZE
        (path / "subids").write_text(f"{_OWNER}:{_FIRST}:{count}\n")
        (path / "nsswitch.conf").write_text("subid: files\n")
        made = cls(path)
        with made.store.write() as leases:
            for number in range(held):
                leases.add(_lease(number))
        return made

    @classmethod
    def exhausted(cls, path: Path, held: int) -> Database:
        """Make one whose pool has one range left, which was released."""
        made = cls.made(path, held + 1, room=0)
        made.allocator.release(_instance(held // 2))
        return made

    @property
    def held(self) -> int:
        """How many leases it holds."""
        with self.store.read() as leases:
            return len(leases.all())

    @property
    def pool(self) -> IdSet:
        """All IDs that it leases from."""
        text = (self._path / "subids").read_text()
        _, start, count = text.split(":")
        return IdSet((range(int(start), int(start) + int(count)),))

    def remove(self, prefix: str) -> None:
        """Take the leases of all instances back whose names begin so."""
        with self.store.write() as leases:
            for lease in leases.all():
                if lease.instance.startswith(prefix):
                    leases.remove(lease)

    def clock(self, call: Callable[[], object]) -> float:
        """Seconds that a call takes on a host that has this pool."""
        subids = self._path / "subids"
        source = self._path / "nsswitch.conf"
        with patch.multiple(
            owners, SUBUID=subids, SUBGID=subids, NSSWITCH=source
        ):
            return clock(call)


def _lease(number: int) -> Lease:
    start = _FIRST + number * SIZE
    who = _instance(number), str(uuid.uuid4())
    return Lease(*who, start, start, SIZE, int(time.time()))


def _instance(number: int) -> str:
    return f"instance-{number:08x}"
