# SPDX-License-Identifier: Apache-2.0
"""Conversion of domains of others to instances that the hook serves."""

from __future__ import annotations

from dataclasses import replace

from lxc_userns.containers.preview import find_security_model
from lxc_userns.domain import read_convertible, read_marker, read_uuid
from lxc_userns.exceptions import InstanceError, NoSuchContainerError
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.rootfs.views.strategies import Progress
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest


class Converter:
    """Converter of domains.

    :param manager: the verbs on instances.
    :param services: the services of the host.
    """

    def __init__(
        self, manager: UserNamespaceManager, services: Services
    ) -> None:
        self._manager = manager
        self._services = services
        self._guests = services.guests

    def convert(self, domain_xml: str, strategy: str | None = None) -> str:
        """Return the XML of a domain, made ready for the hook.

        Its ID maps, or a lease of them, are given to its name at once; its
        root filesystem is left alone until it is prepared. Converting again
        changes nothing.

        :param domain_xml: an LXC domain; all that need not change stays byte
            for byte.
        :param strategy: how its files come to belong to the mapped IDs; None:
            as its mark or the configuration has it.
        :raises DomainConflictError: with everything that keeps it from
            running in a user namespace.
        :raises LxcUsernsError: if anything else is in the way.
        """
        return self._allocate(domain_xml, strategy).apply_to(domain_xml)

    def convert_in_place(self, name: str, strategy: str | None = None) -> None:
        """Convert a domain that libvirt knows, and keep what it was.

        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it is running.
        """
        before = self._stopped(name)
        converted = self.convert(before, strategy)
        if converted == before:
            return
        if read_marker(before) is None:
            self._services.originals.keep(read_uuid(before), before)
        self._guests.define(name, converted)

    def revert(self, name: str) -> None:
        """Give a domain back the XML that it had before it was converted.

        What was prepared is released: a tree that is shifted on disk stays
        so, see :func:`~lxc_userns.rootfs.unshift`.

        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it is running, or was not converted here.
        """
        uuid = read_uuid(self._stopped(name))
        before = self._services.originals.read(uuid)
        if before is None:
            raise InstanceError(
                name,
                "was not converted in place by this host; edit it by hand",
            )
        self._manager.release(name)
        self._guests.define(name, before)
        self._services.originals.forget(uuid)

    def prepare(
        self, name: str, progress: Progress | None = None
    ) -> PreparedInstance:
        """Prepare a converted domain, however long that takes.

        :param progress: called with the number of inodes seen so far.
        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it was not converted.
        """
        xml = self._guests.xml(name)
        if read_marker(xml) is None:
            raise InstanceError(
                name,
                "is not converted; run: lxc-userns domain convert "
                f"{name} --in-place",
            )
        record = self._services.store.load(name)
        if record is not None and record.uuid == read_uuid(xml):
            return self._manager.prepare(name, progress)
        return self._manager.prepare(self._request(xml, None), progress)

    def _allocate(
        self, domain_xml: str, strategy: str | None
    ) -> PreparedInstance:
        request = self._request(domain_xml, strategy)
        services = self._services
        record = services.store.load(request.name)
        if record is not None and record.uuid == request.uuid:
            return PreparedInstance(record)
        planned = PreparedInstance(services.planner.preview(request, record))
        # Refused before it has a lease.
        planned.apply_to(domain_xml)
        maps = self._manager.allocate(request).record.id_maps
        return PreparedInstance(replace(planned.record, id_maps=maps))

    def _request(
        self, domain_xml: str, strategy: str | None
    ) -> InstanceRequest:
        found = read_convertible(domain_xml)
        return InstanceRequest(
            found.name,
            found.uuid,
            found.rootfs,
            strategy=strategy or found.strategy,
            volumes=found.volumes,
            security_model=find_security_model(self._services),
        )

    def _stopped(self, name: str) -> str:
        guest = self._guests.find(name)
        if guest is None:
            raise NoSuchContainerError(name)
        if guest.is_active and not self._guests.has_missed_end(name):
            raise InstanceError(name, "is running; stop it first")
        return self._guests.xml(name)
