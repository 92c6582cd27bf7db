# SPDX-License-Identifier: Apache-2.0
"""The instances of a host: known, running, mounted, and what they use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxc_userns.commands import command
from lxc_userns.exceptions import (
    InstanceError,
    LibvirtError,
    LxcUsernsError,
    RootfsError,
    RunningError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.conflicts import PathUse, find_conflicts, path_uses
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.record import InstanceRecord, is_name
from lxc_userns.libvirtd.status import RunningDomains

if TYPE_CHECKING:
    from lxc_userns.instances.filesystems import Filesystems
    from lxc_userns.instances.store import InstanceStore
    from lxc_userns.libvirtd.client import Guests
    from lxc_userns.libvirtd.guest import Guest


@dataclass(frozen=True, slots=True)
class Instances:
    """All that is known of a host's instances.

    :param store: their records.
    :param find_files: gives their filesystems.
    :param guests: their domains, for who holds no lock.
    :param running: their domains that run.
    """

    store: InstanceStore
    find_files: Callable[[], Filesystems]
    guests: Guests
    running: RunningDomains = field(default_factory=RunningDomains)

    @property
    def files(self) -> Filesystems:
        """Their filesystems."""
        return self.find_files()

    def find_guest(self, record: InstanceRecord) -> Guest | None:
        """Return the domain of an instance, None if there is none.

        A domain of the same name and another UUID is somebody else's.
        """
        guest = self.guests.find(record.name)
        return guest if guest and guest.uuid == record.uuid else None

    def is_active(self, record: InstanceRecord) -> bool:
        """Return whether the domain runs, without asking libvirtd."""
        return self.running.find(record.name, record.uuid) is not None

    def state_of(self, record: InstanceRecord | None) -> str:
        """Return the state that an instance has between the verbs.

        :param record: its record; None: it has no more than a lease.
        :returns: ``allocated``, ``prepared``, ``running``, ``stopped`` or
            ``unmounted``.
        """
        if record is None:
            return "allocated"
        if self.is_active(record):
            return "running"
        if not self.files.is_mounted(record.name):
            return "unmounted"
        return "prepared" if record.verified is None else "stopped"

    def check_same(
        self,
        name: str,
        record: InstanceRecord | None,
        given: str | None,
        verb: str,
        *,
        leased_to: str | None = None,
    ) -> None:
        """Refuse an instance that had the name of another before.

        :param record: record of that name, None if there is none.
        :param given: UUID of the one that is meant; None: whichever has it.
        :param verb: what was called, for the error.
        :param leased_to: without a record, UUID that the lease of that name
            is for; None if there is none, or it is not known.
        :raises InstanceError: if it is refused.
        """
        known = leased_to if record is None else record.uuid
        if None not in (known, given) and known != given:
            raise InstanceError(
                name,
                f"is {self.state_of(record)}, as the instance {known}, and "
                f"{given} is released; call {verb} with what prepare has "
                "returned for that one",
            )

    def load(self, name: str) -> InstanceRecord | None:
        """Return the record of a container; None of one of others.

        Others give names that no instance can have.

        :raises InstanceError: as :meth:`InstanceStore.load`, but for the name
            of a domain that libvirt knows.
        """
        if not is_name(name):
            with suppress(LibvirtError):
                if self.guests.find(name) is not None:
                    return None
        return self.store.load(name)

    def check_name_kept(self, name: str, uuid: str) -> None:
        """Refuse the domain of an instance that had another name.

        libvirt has one domain of a UUID: the other name is of before.

        :raises InstanceError: naming the instance, and what to do.
        """
        for each in self.store.load_all():
            if isinstance(each, InstanceRecord) and (
                each.uuid == uuid and each.name != name
            ):
                remedy = command("container", "destroy", each.name)
                raise InstanceError(
                    name,
                    f"its UUID is that of the instance {each.name}; define it "
                    "by that name again, or give up what that one has of its "
                    f"own, and run: {remedy}",
                )

    def check_stopped(
        self, name: str, verb: str, uuid: str | None = None
    ) -> None:
        """Refuse an instance that libvirtd is about to start again.

        One that reboots from inside has no process for a moment, while
        libvirtd does not answer for it. So this is asked before the instance
        is locked; afterwards the kernel tells.

        :param verb: what was called, for the error.
        :param uuid: of which it has to be; another is not looked at.
        :raises RunningError: if it is running. Where libvirtd cannot be
            reached, nothing can be started either.
        """
        record = self.store.load(name)
        if record is None or uuid not in (None, record.uuid):
            return
        with suppress(LibvirtError):
            guest = self.find_guest(record)
            if guest is None or not guest.is_active:
                return
            if not self.guests.has_missed_end(name):
                raise RunningError(name, verb)

    def names_of(self, instance: str) -> tuple[str, str | None]:
        """Return the name and the UUID of an instance that is given by either.

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
        """Return the ID maps that a domain of this name runs with.

        :returns: None if none runs in a user namespace, or none is found.
        """
        with suppress(LxcUsernsError, ProcessLookupError):
            found = self.running.find(name)
            if found is not None:
                with found.init_process() as init:
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
            for use, other in find_conflicts(mine, path_uses(record)):
                if isinstance(record, DamagedRecord):
                    raise RootfsError(
                        use.path,
                        f"may be in use by the instance {record.name}: "
                        f"{record.reason}",
                    )
                if other.is_below_overlay:
                    raise RootfsError(
                        use.path,
                        f"is below an overlay of the instance {record.name}; "
                        "release that one first",
                    )
                if self._is_in_use(record):
                    raise RootfsError(
                        use.path,
                        f"is in use by the instance {record.name}; stop that "
                        "one first",
                    )

    def _is_in_use(self, record: InstanceRecord) -> bool:
        return self.files.is_mounted(record.name) or self.is_active(record)
