# SPDX-License-Identifier: Apache-2.0
"""Prepared instances: what a compute service is given for its domain."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns import domain
from lxc_userns.arguments import check_type
from lxc_userns.instances.record import InstanceRecord, volume_name
from lxc_userns.resources import partition

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.spec.requirements import Device, Mode


@dataclass(frozen=True, slots=True)
class PreparedInstance:
    """Prepared instance: everything that its domain has to have.

    :param record: what is promised, as it is kept on disk.
    """

    record: InstanceRecord

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.record.name

    @property
    def uuid(self) -> str:
        """UUID of the instance."""
        return self.record.uuid

    @property
    def mode(self) -> Mode:
        """``private`` with a user namespace of its own, or ``host``."""
        return self.record.mode

    @property
    def id_maps(self) -> IdMaps | None:
        """ID maps for ``<idmap>``; None: there must be none."""
        return self.record.id_maps

    @property
    def root(self) -> str:
        """The view of the root filesystem, an absolute path on the host."""
        return self.record.view

    @property
    def filesystems(self) -> tuple[domain.Filesystem, ...]:
        """The ``<filesystem>`` elements, the root's first."""
        parent = os.path.dirname(self.root)
        mounted = [
            domain.Filesystem(
                f"{parent}/{volume_name(number)}",
                each.target,
                (each.source,),
                each.readonly,
            )
            for number, each in enumerate(self.record.volumes)
        ]
        # libvirt unmounts what is below a target before it mounts there.
        mounted.sort(key=lambda each: each.target.count("/"))
        origins = (self.record.rootfs, self.record.archive)
        root = domain.Filesystem(self.root, "/", tuple(filter(None, origins)))
        return (root, *mounted)

    @property
    def parts(self) -> domain.DomainParts:
        """All that its domain has to have, and may have."""
        record = self.record
        return domain.DomainParts(
            name=record.name,
            uuid=record.uuid,
            marker=domain.Marker(
                rootfs=record.archive or record.rootfs,
                rootfs_kind=record.rootfs_kind,
                strategy=record.strategy,
                volumes=record.volumes,
                mode=record.mode,
                mode_reasons=record.mode_reasons,
            ),
            filesystems=self.filesystems,
            id_maps=record.id_maps,
            kept_capabilities=record.needs.capabilities,
            dropped_capabilities=record.dropped_capabilities,
            devices=record.devices,
            host_namespaces=record.needs.host_namespaces,
            security_model=record.security_model,
            partition=self.partition,
        )

    def apply_to(self, domain_xml: str) -> str:
        """Return a domain's XML with everything that the instance needs.

        Call it after ``allocate`` or ``prepare``, before libvirt defines or
        starts the domain; it changes nothing but the text, on every state of
        the instance, from any thread or process. Put in are, where they are
        missing:

        - ``<uuid>``;
        - ``<idmap>`` in mode ``private``;
        - a ``<filesystem>`` of type ``mount`` for the root and each volume.
          In place of one whose source is what was requested, of whatever
          type, it has nothing else of what that had;
        - ``<privnet/>`` without an interface, unless the host's network was
          promised;
        - ``<capabilities>``: what the instance may have, and no others;
        - a ``<hostdev>`` for each device;
        - ``<seclabel>`` of type ``dynamic`` where the request named a
          security model;
        - ``<lxc:namespace>`` for namespaces of the host, in mode ``host``;
        - ``<partition>`` where limits need a group of their own;
        - the marker ``<lxc-userns:container>`` in ``<metadata>``, XML
          namespace ``urn:lxc-userns:domain:1.0``.

        Doing it twice is doing it once. All else stays byte for byte, memory
        and other limits among it.

        :param domain_xml: an LXC domain, of at most 4 MiB.
        :returns: its new text.
        :raises DomainXmlError: if this is not an LXC domain (type ``lxc``,
            type of operating system ``exe``), not well-formed, or has a
            document type.
        :raises DomainConflictError: if it contradicts the promise: another
            name, UUID, ``<idmap>``, source of a filesystem, capability,
            device, shared namespace, a directory or disk of the host that
            was not requested, or an environment variable that libvirt would
            write as markup. The error names every element and reason.
        """
        check_type("apply_to", "domain_xml", domain_xml, str)
        return domain.apply(domain_xml, self.parts)

    @property
    def mode_reasons(self) -> tuple[str, ...]:
        """Reasons for its mode."""
        return self.record.mode_reasons

    @property
    def needs_private_network(self) -> bool:
        """Whether ``<privnet/>`` is a must if there is no ``<interface>``."""
        return self.parts.needs_private_network

    @property
    def shared_namespaces(self) -> tuple[str, ...]:
        """Namespaces of the host that it is to be in besides.

        Of ``network``, ``ipc`` and ``uts``, in mode ``host`` only. libvirt
        makes the container's name that of its UTS namespace, whoever shares
        it: who starts the domain has to give the host its name back.
        """
        return self.record.needs.host_namespaces

    @property
    def devices(self) -> tuple[Device, ...]:
        """The ``<hostdev>`` elements for devices of the host."""
        return self.record.devices

    @property
    def kept_capabilities(self) -> tuple[str, ...]:
        """Capabilities that its domain keeps, by libvirt's names."""
        return self.record.needs.capabilities

    @property
    def security_model(self) -> str | None:
        """The model of its domain's ``<seclabel>``, if it is to have one."""
        return self.record.security_model

    @property
    def partition(self) -> str | None:
        """The ``<partition>`` of its domain's ``<resource>``, if it needs one.

        Where systemd keeps containers there is a group for each, in which
        its limits hold.
        """
        return partition.find(self.name)

    @property
    def dropped_capabilities(self) -> tuple[str, ...]:
        """Capabilities that its domain drops, by libvirt's names."""
        return self.record.dropped_capabilities
