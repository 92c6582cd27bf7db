# SPDX-License-Identifier: Apache-2.0
"""Conversion of domains of others to instances that the hook serves."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from dataclasses import replace

from lxc_userns.commands import conversion
from lxc_userns.containers.preview import find_security_model
from lxc_userns.domain import (
    read_convertible,
    read_marker,
    read_root_source,
    read_uuid,
)
from lxc_userns.exceptions import (
    InstanceError,
    LibvirtUnreachableError,
    NoSuchContainerError,
)
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.rootfs.views.strategies import Progress
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.strategy import Strategy

_LOG = logging.getLogger(__name__)


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
        changes nothing. Without a UUID it gets that of the domain of its name
        that libvirt knows, or what was converted has, or a new one.

        :param domain_xml: an LXC domain; all that need not change stays byte
            for byte.
        :param strategy: how its files come to belong to the mapped IDs; None:
            as its mark or the configuration has it.
        :raises DomainConflictError: with everything that keeps it from
            running in a user namespace.
        :raises InstanceError: if it is prepared by another strategy.
        :raises LxcUsernsError: if anything else is in the way.
        """
        return self._allocate(domain_xml, strategy).apply_to(domain_xml)

    def convert_in_place(self, name: str, strategy: str | None = None) -> None:
        """Convert a domain that libvirt knows, and keep what it was.

        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it is running, or has lost its mark before
            it was prepared.
        """
        before = self._stopped(name)
        is_new = not self._is_converted(name, before)
        is_known = self._services.store.load(name) is not None
        if not (is_new or is_known or read_marker(before)):
            raise InstanceError(
                name,
                "has lost its mark, which alone tells what its view is of; "
                f"run: {conversion(name, '--revert')}; then convert it again",
            )
        converted = self.convert(before, strategy)
        if converted == before:
            return
        if is_new:
            self._services.originals.keep(read_uuid(before), before)
        self._guests.define(name, converted)

    def revert(self, name: str, *, discard: bool = False) -> None:
        """Give a domain back the XML that it had before it was converted.

        What was prepared is released: a tree that is shifted on disk stays
        so, see :func:`~lxc_userns.rootfs.unshift`, and is warned of.

        :param discard: whether to remove what it has changed on its overlay.
        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it is running, was not converted here, has
            another name since, or would lose files of its own.
        """
        xml = self._stopped(name)
        identifier = read_uuid(xml)
        before = self._services.originals.read(identifier)
        # What is kept may be of a domain that had this UUID before.
        if before is None or not self._is_converted(name, xml):
            raise InstanceError(
                name,
                "was not converted in place by this host; edit it by hand",
            )
        former = read_convertible(before).name
        if former != name:
            raise InstanceError(
                name,
                f"was called {former} when it was converted; give it that "
                "name again, or edit it by hand",
            )
        record = self._services.store.load(name)
        if record is not None and record.has_own_files and not discard:
            raise InstanceError(
                name,
                f"has files of its own, by the strategy {record.strategy}, "
                "and would lose them; copy what is to be kept while it runs, "
                "then give --discard",
            )
        self._manager.release(name)
        self._guests.define(name, before)
        self._services.originals.forget(identifier)
        if record is not None and record.strategy is Strategy.CHOWN:
            _LOG.warning(
                "%s: %s stays shifted on disk; see lxc-userns rootfs unshift",
                *(name, record.rootfs),
            )

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
                name, f"is not converted; run: {conversion(name)}"
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
            if strategy not in (None, Strategy.AUTO, record.strategy):
                raise InstanceError(
                    record.name,
                    f"is prepared by the strategy {record.strategy}; revert "
                    "it, or destroy and define it anew, then convert it",
                )
            return PreparedInstance(record)
        planned = PreparedInstance(services.planner.preview(request, record))
        # Refused before it has a lease.
        planned.apply_to(domain_xml)
        if planned.record.rootfs_kind == "image":
            services.files.given.check_image(planned.record)
        maps = self._manager.allocate(request).record.id_maps
        return PreparedInstance(replace(planned.record, id_maps=maps))

    def _request(
        self, domain_xml: str, strategy: str | None
    ) -> InstanceRequest:
        found = read_convertible(domain_xml)
        identifier = found.uuid or self._find_uuid(found.name)
        self._services.instances.check_name_kept(found.name, identifier)
        return InstanceRequest(
            found.name,
            identifier,
            found.rootfs,
            strategy=strategy or found.strategy,
            volumes=found.volumes,
            security_model=find_security_model(self._services),
        )

    def _find_uuid(self, name: str) -> str:
        """Return the UUID for a domain whose XML has none."""
        with suppress(LibvirtUnreachableError):
            guest = self._guests.find(name)
            if guest is not None:
                return guest.uuid
        services = self._services
        for known in (services.store.load, services.allocator.find):
            found = known(name)
            if found is not None and found.uuid is not None:
                return found.uuid
        return str(uuid.uuid4())

    def _is_converted(self, name: str, xml: str) -> bool:
        """Return whether a domain was converted, also if its mark is gone."""
        view = self._services.files.view(name)
        return read_marker(xml) is not None or read_root_source(xml) == view

    def _stopped(self, name: str) -> str:
        guest = self._guests.find(name)
        if guest is None:
            raise NoSuchContainerError(name)
        if guest.is_active and not self._guests.has_missed_end(name):
            raise InstanceError(name, "is running; stop it first")
        return self._guests.xml(name)
