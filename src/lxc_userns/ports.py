# SPDX-License-Identifier: Apache-2.0
"""Ports: what the stages reach the machine through besides libvirt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxc_userns.leases.pool import Pools
    from lxc_userns.leases.running import ProcessTable
    from lxc_userns.libvirtd.daemon import Daemon
    from lxc_userns.libvirtd.definitions import DefinedDomains
    from lxc_userns.libvirtd.status import RunningDomains
    from lxc_userns.linux.netlink import NetworkDevice
    from lxc_userns.linux.process import Process
    from lxc_userns.resources import ControlGroups
    from lxc_userns.rootfs.views.mountpoints import Views
    from lxc_userns.rootfs.views.strategies import ViewStrategy
    from lxc_userns.traces.store import Traces
    from lxc_userns.verification.inspector import Inspector


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ways by which the stages reach the machine.

    None is the package's own way, which
    :class:`~lxc_userns.services.Services` loads when it is needed; tests have
    others.

    :param views: makes the mount points below a run path.
    :param strategies: how views of root filesystems are made, by name.
    :param traces: makes the traces below a state path.
    :param groups: control groups.
    :param inspector: looks at running containers.
    :param running: which domains run.
    :param defined: which domains libvirt has files of.
    :param processes: which processes run in user namespaces.
    :param read_pools: reads the pool of an owner of subordinate IDs.
    :param clock: gives the seconds of Unix time.
    :param read_kills: counts the kills below libvirt's process of a container.
    :param read_devices: reads the network devices of a container.
    :param find_daemon: finds the running libvirtd.
    """

    views: Callable[[str], Views] | None = None
    strategies: Mapping[str, ViewStrategy] | None = None
    traces: Callable[[str], Traces] | None = None
    groups: ControlGroups | None = None
    inspector: Inspector | None = None
    running: RunningDomains | None = None
    defined: DefinedDomains | None = None
    processes: ProcessTable | None = None
    read_pools: Callable[[str], Pools] | None = None
    clock: Callable[[], float] = time.time
    read_kills: Callable[[int], int] | None = None
    read_devices: Callable[[Process], list[NetworkDevice]] | None = None
    find_daemon: Callable[[], Daemon | None] | None = None
