# SPDX-License-Identifier: Apache-2.0
"""What a compute service asks for, and what it is given."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from lxc_userns.arguments import check_items, check_type, refuse
from lxc_userns.domain import Filesystem, seclabel
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.filesystems import volume_name
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.resources import partition
from lxc_userns.rootfs.views import strategies
from lxc_userns.spec.requirements import Device, Mode, Needs
from lxc_userns.spec.rootfs_kind import RootfsKind
from lxc_userns.spec.volume import Volume

_NONE: Final = type(None)
_REQUEST: Final = "InstanceRequest"
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "name": (str,),
    "uuid": (str,),
    "rootfs": (str,),
    "id_maps": (IdMaps, _NONE),
    "strategy": (str, _NONE),
    "program": (str, _NONE),
    "range_size": (int, _NONE),
    "needs": (Needs,),
    "rootfs_kind": (str, _NONE),
    "max_processes": (int, _NONE),
    "security_model": (str, _NONE),
}


@dataclass(frozen=True, slots=True)
class InstanceRequest:
    """What a compute service asks for.

    :param name: name of the instance and of its libvirt domain: a letter or
        digit, then at most 62 letters, digits, ``.``, ``_`` and ``-``.
    :param uuid: UUID of both.
    :param rootfs: its root filesystem: a directory, a raw disk image with
        one filesystem, or a tar archive, which is unpacked for it.
    :param id_maps: its ID maps; None: those of the configuration, or of a
        lease from the pool that is configured.
    :param range_size: number of IDs of its lease, 6 or more; None: that of
        the configuration, or whatever lease it has.
    :param strategy: ``idmapped``, ``overlay``, ``chown`` or ``auto``; None:
        that of the configuration.
    :param volumes: files of the host that it sees besides.
    :param program: what it will start, an absolute path in it; its root
        filesystem is left alone unless it has that.
    :param needs: what it asks for that not every container is to have; what
        the policy of the configuration does not allow is refused.
    :param rootfs_kind: what ``rootfs`` is: ``directory``, ``image`` or
        ``archive``; anything else there is refused, whatever is in it. None
        finds out from what is there: not for an image of somebody else, who
        would choose by its content what is done with it.
    :param max_processes: how many processes and threads it may have, 0 to
        4194304; 0 sets no limit. None: that of the configuration.
    :param security_model: security module of the kernel by which it is to be
        confined, ``apparmor`` or ``selinux``: its domain has to have a
        ``<seclabel>`` of it. None promises nothing.
    :raises ArgumentError: for a value of another type, or a strategy that
        there is not.
    """

    name: str
    uuid: str
    rootfs: str
    id_maps: IdMaps | None = None
    strategy: str | None = None
    volumes: tuple[Volume, ...] = ()
    program: str | None = None
    range_size: int | None = None
    needs: Needs = field(default_factory=Needs)
    rootfs_kind: RootfsKind | None = None
    max_processes: int | None = None
    security_model: str | None = None

    def __post_init__(self) -> None:
        for name, types in _TYPES.items():
            check_type(_REQUEST, name, getattr(self, name), *types)
        check_items(_REQUEST, "volumes", self.volumes, Volume)
        object.__setattr__(self, "volumes", tuple(self.volumes))
        if self.strategy not in (None, *strategies.NAMES):
            expected = f"expected {', '.join(strategies.NAMES)}, or None"
            refuse(_REQUEST, "strategy", self.strategy, expected)
        if self.security_model not in (None, *seclabel.MODELS):
            expected = f"expected {', '.join(seclabel.MODELS)}, or None"
            refuse(_REQUEST, "security_model", self.security_model, expected)


@dataclass(frozen=True, slots=True)
class PreparedInstance:
    """What its domain has to have.

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
        """What ``<idmap>`` has to be; None: there must be none."""
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
        return "network" not in self.record.needs.shared

    @property
    def shared_namespaces(self) -> tuple[str, ...]:
        """Namespaces of the host that it is to be in besides.

        Of ``network``, ``ipc`` and ``uts``, in mode ``host`` only. libvirt
        makes the container's name that of its UTS namespace, whoever shares
        it: who starts the domain has to give the host its name back.
        """
        return self.record.needs.shared

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
