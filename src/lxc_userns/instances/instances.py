# SPDX-License-Identifier: Apache-2.0
"""The instances of a host: known, running, mounted, and what they use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from lxc_userns.exceptions import (
    LibvirtError,
    LxcUsernsError,
    RootfsError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.conflicts import PathUse, claims, find_conflicts
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.store import InstanceStore
from lxc_userns.libvirtd.client import Guest, Guests


@dataclass(frozen=True, slots=True)
class Instances:
    """All that is known of a host's instances.

    :param store: their records.
    :param files: their filesystems.
    :param guests: their domains.
    """

    store: InstanceStore
    files: Filesystems
    guests: Guests

    def find_guest(self, record: InstanceRecord) -> Guest | None:
        """The domain of an instance, None if there is none.

        A domain of the same name and another UUID is somebody else's.
        """
        guest = self.guests.find(record.name)
        return guest if guest and guest.uuid == record.uuid else None

    def is_active(self, record: InstanceRecord) -> bool:
        """Whether the domain of an instance runs."""
        guest = self.find_guest(record)
        if guest is None or not guest.is_active:
            return False
        return not self.guests.has_missed_end(record.name)

    def names_of(self, instance: str) -> tuple[str, str | None]:
        """The name and the UUID of an instance that is given by either.

        A name comes before the UUID of another.

        :returns: what is given, and None, if neither we nor libvirt know it.
        """
        known = [
            (each.name, each.uuid)
            for each in self.store.load_all()
            if isinstance(each, InstanceRecord)
        ]
        with suppress(LibvirtError):
            known += ((each.name, each.uuid) for each in self.guests.list())
        for name, uuid in known:
            if name == instance:
                return name, uuid
        for name, uuid in known:
            if uuid == instance.lower():
                return name, uuid
        return instance, None

    def running_maps(self, name: str) -> IdMaps | None:
        """ID maps that a domain of this name runs with, ours or not.

        :returns: None if none runs in a user namespace, or none is found.
        """
        with suppress(LxcUsernsError, ProcessLookupError, FileNotFoundError):
            guest = self.guests.find(name)
            if guest is not None and guest.is_active:
                with self.guests.init_process(name) as init:
                    return IdMaps.of_rows(init.uid_map, init.gid_map)
        return None

    def check_unused(
        self, mine: list[PathUse], *, besides: str | None
    ) -> None:
        """Check that what is to be used goes with what is in use.

        :param besides: name of an instance that does not count.
        :raises RootfsError: naming the instance that is in the way.
        """
        for record in self.store.load_all():
            if record.name == besides:
                continue
            for claim, other in find_conflicts(mine, claims(record)):
                if isinstance(record, DamagedRecord):
                    raise RootfsError(
                        claim.path,
                        f"may be in use by the instance {record.name}: "
                        f"{record.reason}",
                    )
                if other.is_below_overlay:
                    raise RootfsError(
                        claim.path,
                        f"is below an overlay of the instance {record.name}; "
                        "release that one first",
                    )
                if self._is_in_use(record):
                    raise RootfsError(
                        claim.path,
                        f"is in use by the instance {record.name}; stop that "
                        "one first",
                    )

    def _is_in_use(self, record: InstanceRecord) -> bool:
        return self.files.is_mounted(record.name) or self.is_active(record)
