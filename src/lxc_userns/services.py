# SPDX-License-Identifier: Apache-2.0
"""Services of a host, made of the configuration for one operation.

Each is loaded when it is first asked for: what a command does not do costs it
nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import CONTAINER_IDS
from lxc_userns.ports import Ports

if TYPE_CHECKING:
    from lxc_userns.config.settings import Settings
    from lxc_userns.host_paths import HostPaths
    from lxc_userns.instances.failures import Failures
    from lxc_userns.instances.filesystems import Filesystems
    from lxc_userns.instances.instances import Instances
    from lxc_userns.instances.originals import OriginalDomains
    from lxc_userns.instances.store import InstanceStore
    from lxc_userns.leases import LeaseStore
    from lxc_userns.leases.allocator import LeaseAllocator
    from lxc_userns.libvirtd.client import Guests
    from lxc_userns.libvirtd.daemon import Daemon
    from lxc_userns.libvirtd.definitions import DefinedDomains
    from lxc_userns.linux.netlink import NetworkDevice
    from lxc_userns.linux.process import Process
    from lxc_userns.plan import Planner
    from lxc_userns.prepare import Preparation
    from lxc_userns.release import Releaser
    from lxc_userns.resources import ControlGroups
    from lxc_userns.rootfs.views.strategies import Progress
    from lxc_userns.traces.store import Traces
    from lxc_userns.verification.inspector import Inspector
    from lxc_userns.verification.verifier import Verifier


class Services:
    """Services of a host, each made when it is first asked for.

    Each raises :class:`ConfigError` if an option that it needs has a value
    that cannot be used, and no other.

    :param settings: values of our options, for the whole operation.
    :param guests: how to reach libvirt.
    :param roots: as for :class:`~lxc_userns.UserNamespaceManager`.
    :param ports: what the machine is reached through besides.
    """

    def __init__(
        self,
        settings: Settings,
        guests: Guests,
        roots: tuple[str, ...] | None = None,
        ports: Ports | None = None,
    ) -> None:
        self.settings = settings
        self.guests = guests
        self.ports = ports or Ports()
        self._roots = roots

    @cached_property
    def store(self) -> InstanceStore:
        """Records of the instances."""
        from lxc_userns.instances.store import InstanceStore

        return InstanceStore(self.settings.state_path)

    @cached_property
    def originals(self) -> OriginalDomains:
        """Domains as they were before they were converted."""
        from lxc_userns.instances.originals import OriginalDomains

        return OriginalDomains(self.settings.state_path)

    @cached_property
    def files(self) -> Filesystems:
        """Filesystems of the instances."""
        from lxc_userns.instances.filesystems import Filesystems

        return Filesystems(
            self.settings.state_path,
            self.settings.run_path,
            self._roots or (),
            views=self.ports.views,
            by_name=self.ports.strategies,
        )

    @cached_property
    def traces(self) -> Traces:
        """Traces of the containers."""
        from lxc_userns.traces.store import Traces

        return (self.ports.traces or Traces)(self.settings.state_path)

    @cached_property
    def groups(self) -> ControlGroups:
        """Control groups of the containers."""
        from lxc_userns.resources import ControlGroups

        return self.ports.groups or ControlGroups()

    @cached_property
    def defined(self) -> DefinedDomains:
        """Domains that are defined, running or not."""
        from lxc_userns.libvirtd.definitions import DefinedDomains

        return self.ports.defined or DefinedDomains()

    @cached_property
    def failures(self) -> Failures:
        """Counts of failures."""
        from lxc_userns.instances.failures import Failures

        return Failures(self.settings.state_path)

    @cached_property
    def instances(self) -> Instances:
        """All that is known of the instances."""
        from lxc_userns.instances.instances import Instances
        from lxc_userns.libvirtd.status import RunningDomains

        return Instances(
            self.store,
            lambda: self.files,
            self.guests,
            self.ports.running or RunningDomains(),
        )

    @cached_property
    def leases(self) -> LeaseStore:
        """Leases of the instances."""
        from lxc_userns.leases import LeaseStore

        return LeaseStore(self.settings.state_path)

    @cached_property
    def allocator(self) -> LeaseAllocator:
        """Lease allocator."""
        from lxc_userns.leases.allocator import LeaseAllocator
        from lxc_userns.leases.host_pool import HostPool
        from lxc_userns.leases.pool import read_pools
        from lxc_userns.leases.running import ProcessTable

        try:
            owner, size = self.settings.subid_owner, self.settings.range_size
        except ConfigError:
            # Whoever wants a lease is told; no one else needs to know.
            owner, size = "", CONTAINER_IDS
        pool = HostPool(
            instances=self.instances,
            leases=self.leases,
            owner=owner,
            size=size,
            processes=self.ports.processes or ProcessTable(),
            read=self.ports.read_pools or read_pools,
        )
        return LeaseAllocator(pool, self.ports.clock)

    @cached_property
    def paths(self) -> HostPaths:
        """Paths of the host that instances may be given."""
        from lxc_userns.host_paths import HostPaths

        return HostPaths(self.settings, self._roots)

    @cached_property
    def planner(self) -> Planner:
        """Planner of what the instances are promised."""
        from lxc_userns.plan import Planner

        return Planner(self.settings, self.files, self.allocator, self.paths)

    def preparation(
        self,
        progress: Progress | None,
        program: str | None = None,
        *,
        grow: bool = False,
        is_bounded: bool = False,
    ) -> Preparation:
        """Return the preparation of one instance.

        :param progress: called with the number of inodes seen so far.
        :param program: what the root filesystem of a new one has to have.
        :param grow: whether that of an image is grown to all of it.
        :param is_bounded: whether to refuse what takes as long as a tree is
            large.
        """
        from lxc_userns.prepare import Preparation

        return Preparation(
            instances=self.instances,
            allocator=self.allocator,
            groups=self.groups,
            failures=self.failures,
            settings=self.settings,
            progress=progress,
            program=program,
            grow=grow,
            is_bounded=is_bounded,
        )

    @cached_property
    def releaser(self) -> Releaser:
        """Releaser of what was prepared."""
        from lxc_userns.release import Releaser

        return Releaser(
            instances=self.instances,
            allocator=self.allocator,
            traces=self.traces,
            groups=self.groups,
        )

    @cached_property
    def verifier(self) -> Verifier:
        """Verifier of running containers."""
        from lxc_userns.verification.verifier import Verifier

        return Verifier(self.instances, self.failures, self.inspector)

    @cached_property
    def inspector(self) -> Inspector:
        """Inspector of running containers."""
        from lxc_userns.verification.inspector import Inspector

        return self.ports.inspector or Inspector()

    def read_kills(self, controller: int) -> int:
        """Return how often the kernel killed for want of memory.

        :param controller: libvirt's process of the container.
        """
        from lxc_userns.traces import memory

        return (self.ports.read_kills or memory.read_kills)(controller)

    def read_devices(self, init: Process) -> list[NetworkDevice]:
        """Return the network devices of a container.

        :param init: its first process.
        """
        from lxc_userns.linux import netlink

        return (self.ports.read_devices or netlink.devices_of)(init)

    def find_daemon(self) -> Daemon | None:
        """Return the running libvirtd."""
        from lxc_userns.libvirtd import daemon

        return (self.ports.find_daemon or daemon.find)()
