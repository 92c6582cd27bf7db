# SPDX-License-Identifier: Apache-2.0
"""Specification of a container, and the domain that it makes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from lxc_userns import domain
from lxc_userns.exceptions import NeedsError
from lxc_userns.spec import hostname
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements
from lxc_userns.spec.restart_policy import RestartPolicy

if TYPE_CHECKING:
    from lxc_userns.instances.prepared import PreparedInstance
    from lxc_userns.spec.rootfs_kind import RootfsKind
    from lxc_userns.spec.volume import Volume


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Specification of a container.

    :param name: its name, as for
        :class:`~lxc_userns.spec.request.InstanceRequest`.
    :param rootfs: its root filesystem, and
    :param strategy: how it is made the container's, and
    :param volumes: what else of the host it sees, all as for
        :class:`~lxc_userns.spec.request.InstanceRequest`.
    :param init: program to start in it, an absolute path there, and its
        arguments.
    :param memory_mib: memory in MiB.
    :param cpus: CPU time that it may use, in CPUs: 0.01 or more, 1.5 for one
        and a half; None for as much as there is.
    :param env: environment variables of init.
    :param interfaces: its network interfaces; none leaves it alone with a
        loopback device, unless it shares the host's network.
    :param needs: as for :class:`~lxc_userns.spec.request.InstanceRequest`, and
    :param rootfs_kind: the same.
    :param max_processes: likewise.
    :param hostname: as for :class:`~lxc_userns.spec.request.InstanceRequest`;
        None for what libvirt makes of its name.
    :param autostart: whether libvirt starts it at the host's boot; that needs
        libvirt's hook.
    :param restart: what systemd does when it has ended; all but nothing needs
        the units of this package.
    :raises NeedsError: if it shares the host's network and has interfaces, or
        the host's name and has one of its own.
    """

    name: str
    rootfs: str
    init: tuple[str, ...] = ("/sbin/init",)
    _: KW_ONLY
    memory_mib: int = 512
    cpus: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    interfaces: tuple[domain.Interface, ...] = ()
    strategy: str | None = None
    volumes: tuple[Volume, ...] = ()
    needs: Requirements = field(default_factory=Requirements)
    rootfs_kind: RootfsKind | None = None
    max_processes: int | None = None
    autostart: bool = False
    hostname: str | None = None
    restart: RestartPolicy = RestartPolicy.NO

    def __post_init__(self) -> None:
        if self.interfaces and "network" in self.needs.host_namespaces:
            raise NeedsError(
                "network",
                "host",
                "excludes interfaces of its own; leave out either",
            )
        if self.hostname is not None and self._shares_hostname:
            raise NeedsError(
                "uts",
                "host",
                "excludes a host name of its own; leave out either",
            )

    @property
    def _shares_hostname(self) -> bool:
        return "uts" in self.needs.host_namespaces

    def to_request(self, security_model: str | None) -> InstanceRequest:
        """Return the request to the manager, under a new UUID.

        :param security_model: as for
            :class:`~lxc_userns.spec.request.InstanceRequest`.
        :raises DomainXmlError: if its first process cannot be one.
        """
        # Told by the words of who asks for a container.
        self._make_init()
        name = self.hostname or hostname.of_container(self.name)
        return InstanceRequest(
            self.name,
            str(uuid.uuid4()),
            self.rootfs,
            strategy=self.strategy,
            volumes=self.volumes,
            program=self.init[0],
            needs=self.needs,
            rootfs_kind=self.rootfs_kind,
            max_processes=self.max_processes,
            security_model=security_model,
            hostname=None if self._shares_hostname else name,
        )

    def _make_init(self) -> domain.Init:
        return domain.Init(self.init[0], self.init[1:], self.env)

    def to_xml(self, prepared: PreparedInstance) -> str:
        """Return the domain for it.

        :raises DomainXmlError: for a value that it cannot have.
        """
        base = domain.Domain(
            name=prepared.name,
            uuid=prepared.uuid,
            memory_mib=self.memory_mib,
            init=self._make_init(),
            interfaces=self.interfaces,
            cpus=self.cpus,
        )
        return prepared.apply_to(base.to_xml())
