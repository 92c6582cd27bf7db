# SPDX-License-Identifier: Apache-2.0
"""Specification of a container, and the domain that it makes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from lxc_userns.domain import (
    Capabilities,
    Domain,
    Features,
    Init,
    Interface,
    SecLabel,
    SharedNamespace,
    SharedNamespaces,
    Tuning,
)
from lxc_userns.domain.limits import DEFAULT_PERIOD
from lxc_userns.exceptions import DomainXmlError, NeedsError
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import CAPABILITIES, DROPPED, Requirements
from lxc_userns.spec.rootfs_kind import RootfsKind
from lxc_userns.spec.volume import Volume

#: A process in all of the host's namespaces, for as long as it is up.
_HOST_PID = "1"
_MOST_CPUS = 65536


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
    :raises NeedsError: if it shares the host's network and has interfaces.
    """

    name: str
    rootfs: str
    init: tuple[str, ...] = ("/sbin/init",)
    _: KW_ONLY
    memory_mib: int = 512
    cpus: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    strategy: str | None = None
    volumes: tuple[Volume, ...] = ()
    needs: Requirements = field(default_factory=Requirements)
    rootfs_kind: RootfsKind | None = None
    max_processes: int | None = None

    def __post_init__(self) -> None:
        if self.interfaces and "network" in self.needs.host_namespaces:
            raise NeedsError(
                "network", "host", "excludes interfaces of its own"
            )

    def to_request(self, security_model: str | None) -> InstanceRequest:
        """Return the request to the manager, under a new UUID.

        :param security_model: as for
            :class:`~lxc_userns.spec.request.InstanceRequest`.
        """
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
        )

    def to_domain(self, prepared: PreparedInstance) -> Domain:
        """The domain for it.

        :raises DomainXmlError: for a value that it cannot have.
        """
        return Domain(
            name=prepared.name,
            uuid=prepared.uuid,
            memory_mib=self.memory_mib,
            init=Init(self.init[0], self.init[1:], self.env),
            filesystems=prepared.filesystems,
            id_maps=prepared.id_maps,
            interfaces=self.interfaces,
            devices=prepared.devices,
            features=Features(
                privnet=prepared.needs_private_network,
                capabilities=_capabilities(prepared),
            ),
            tuning=_tuning(self.cpus, prepared.partition),
            seclabels=_seclabels(prepared),
            namespaces=_shared_namespaces(prepared),
            metadata={
                "mode": prepared.mode,
                "mode-reasons": "; ".join(prepared.mode_reasons),
                "strategy": prepared.record.strategy.value,
            },
        )


def _capabilities(prepared: PreparedInstance) -> Capabilities:
    kept, dropped = prepared.kept_capabilities, prepared.dropped_capabilities
    if prepared.mode != "private":
        return Capabilities(keep=kept, drop=dropped)
    # libvirt has no name for those from audit_read (37) on: they go with
    # whatever is not named, or not at all.
    named = {*CAPABILITIES} - DROPPED - {*dropped}
    return Capabilities("deny", keep=named | {*kept})


def _seclabels(prepared: PreparedInstance) -> tuple[SecLabel, ...]:
    model = prepared.security_model
    return () if model is None else (SecLabel.dynamic(model),)


def _tuning(cpus: float | None, partition: str | None) -> Tuning:
    # LXC takes a number of virtual CPUs and does nothing with it.
    if cpus is None:
        return Tuning(partition=partition)
    if not 0 <= cpus < _MOST_CPUS:  # Neither what is no number.
        raise DomainXmlError(f"CPUs {cpus}: expected 0.01 to {_MOST_CPUS}")
    return Tuning(
        cpu_period_us=DEFAULT_PERIOD,
        cpu_quota_us=round(cpus * DEFAULT_PERIOD),
        partition=partition,
    )


def _shared_namespaces(prepared: PreparedInstance) -> SharedNamespaces:
    # Without an interface and privnet it is in the host's network already.
    return SharedNamespaces(
        **{
            kind: SharedNamespace("pid", _HOST_PID)
            for kind in prepared.shared_namespaces
            if kind != "network"
        }
    )
