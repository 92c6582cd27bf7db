# SPDX-License-Identifier: Apache-2.0
"""Services of a host, made of the configuration for one operation."""

from __future__ import annotations

from functools import cached_property

from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import CONTAINER_IDS
from lxc_userns.instances.failures import Failures
from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import LeaseStore
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.leases.host_pool import HostPool
from lxc_userns.libvirtd.client import Guests
from lxc_userns.plan import Planner
from lxc_userns.ports import Ports
from lxc_userns.prepare import Preparation
from lxc_userns.release import Releaser
from lxc_userns.rootfs.views.strategies import Progress
from lxc_userns.traces.store import Traces
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
        return InstanceStore(self.settings.state_path)

    @cached_property
    def files(self) -> Filesystems:
        """Filesystems of the instances."""
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
        return self.ports.traces(self.settings.state_path)

    @cached_property
    def failures(self) -> Failures:
        """Counts of failures."""
        return Failures(self.settings.state_path)

    @cached_property
    def instances(self) -> Instances:
        """All that is known of the instances."""
        return Instances(
            self.store, self.files, self.guests, self.ports.running
        )

    @cached_property
    def allocator(self) -> LeaseAllocator:
        """Lease allocator."""
        try:
            owner, size = self.settings.subid_owner, self.settings.range_size
        except ConfigError:
            # Whoever wants a lease is told; nobody else needs to know.
            owner, size = "", CONTAINER_IDS
        pool = HostPool(
            instances=self.instances,
            leases=LeaseStore(self.settings.state_path),
            owner=owner,
            size=size,
            processes=self.ports.processes,
            read=self.ports.read_pools,
        )
        return LeaseAllocator(pool, self.ports.clock)

    @cached_property
    def planner(self) -> Planner:
        """Planner of what the instances are promised."""
        return Planner(self.settings, self.files, self.allocator, self._roots)

    def preparation(
        self,
        progress: Progress | None,
        program: str | None = None,
        *,
        is_bounded: bool = False,
    ) -> Preparation:
        """Return the preparation of one instance.

        :param progress: called with the number of inodes seen so far.
        :param program: what the root filesystem of a new one has to have.
        :param is_bounded: whether to refuse what takes as long as a tree is
            large.
        """
        return Preparation(
            instances=self.instances,
            allocator=self.allocator,
            groups=self.ports.groups,
            failures=self.failures,
            settings=self.settings,
            progress=progress,
            program=program,
            is_bounded=is_bounded,
        )

    @cached_property
    def releaser(self) -> Releaser:
        """Releaser of what was prepared."""
        return Releaser(
            instances=self.instances,
            allocator=self.allocator,
            traces=self.traces,
            groups=self.ports.groups,
        )

    @cached_property
    def verifier(self) -> Verifier:
        """Verifier of running containers."""
        return Verifier(self.instances, self.failures, self.ports.inspector)
