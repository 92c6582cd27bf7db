# SPDX-License-Identifier: Apache-2.0
"""Prepared instances: what a compute service is given for its domain."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lxc_userns.domain import Filesystem
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.record import InstanceRecord, volume_name
from lxc_userns.resources import partition
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
    def filesystems(self) -> tuple[Filesystem, ...]:
        """The ``<filesystem>`` elements, the root's first."""
        parent = os.path.dirname(self.root)
        # Read-only is the mount itself: of <readonly/> libvirt makes a
        # remount that can fail in silence.
        mounted = [
            Filesystem.mount(f"{parent}/{volume_name(number)}", each.target)
            for number, each in enumerate(self.record.volumes)
        ]
        # libvirt unmounts what is below a target before it mounts there.
        mounted.sort(key=lambda each: each.target.count("/"))
        return (Filesystem.mount(self.root, "/"), *mounted)

    @property
    def mode_reasons(self) -> tuple[str, ...]:
        """Why it has this mode."""
        return self.record.mode_reasons

    @property
    def needs_private_network(self) -> bool:
        """Whether ``<privnet/>`` is a must if there is no ``<interface>``.

        Without either, the container would share the host's network, and
        with ID maps it could not mount ``/sys`` and not start.
        """
        return "network" not in self.record.needs.host_namespaces

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
