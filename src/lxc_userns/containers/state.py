# SPDX-License-Identifier: Apache-2.0
"""State of a container: what it was promised, and how it is now."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lxc_userns import domain
from lxc_userns.exceptions import (
    DomainXmlError,
    InstanceError,
    NoSuchContainerError,
)
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.spec.restart_policy import RestartPolicy
from lxc_userns.traces.trace import Trace

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.instances.verified import Verified
    from lxc_userns.libvirtd.guest import Guest
    from lxc_userns.services import Services
    from lxc_userns.spec.requirements import Device, Mode
    from lxc_userns.spec.rootfs_kind import RootfsKind
    from lxc_userns.spec.volume import Volume

_LOG = logging.getLogger(__name__)
#: State of a container that runs, and was not verified since it started.
UNVERIFIED = "unverified"
_RUNNING = frozenset({"running", "paused"})


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """A network interface of a container.

    :param name: its name as the container has it; None while it does not run.
    :param mac: its MAC address; empty if it has none.
    :param addresses: its IP addresses, each with the length of its prefix.
    :param network: what libvirt has attached it to, as ``bridge:br0``; None
        if the container has made it itself, or that was not looked for.
    """

    name: str | None
    mac: str
    addresses: tuple[str, ...] = ()
    network: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as it is now.

    Of one that others have made, libvirt alone tells: it has no strategy, and
    what it was promised is what its XML says.

    :param name: its name.
    :param uuid: its UUID.
    :param state: ``running``, ``stopped`` and so on; ``incomplete`` if
        libvirt does not know it, as after a crash while it was made;
        ``unverified`` if it runs and was not verified since it started, as
        after a crash of who started it, or a reboot from inside.
    :param mode: ``private`` or ``host``; None if its XML breaks a rule.
    :param mode_reasons: why that mode.
    :param strategy: how its view is made.
    :param reason: why that strategy.
    :param rootfs: its root filesystem.
    :param rootfs_kind: what it was given as that; None if it was made before
        that was noted.
    :param archive: what that was unpacked from, if it was.
    :param volumes: what else of the host it sees.
    :param shared: namespaces of the host that it is in.
    :param capabilities: those that it asked for.
    :param devices: devices of the host that it may use.
    :param max_processes: how many processes and threads it may have; 0 sets
        no limit. None: that of its XML.
    :param hostname: its host name when it starts, as it was asked for; None:
        libvirt makes one of its name.
    :param view: where that is mounted for it.
    :param init_pid: host's process ID of its first process while it runs.
    :param id_maps: what it was promised.
    :param trace: what is known of its last run.
    :param restart: its restart policy, as far as it was looked for.
    :param interfaces: its network interfaces as the kernel has them, without
        its loopback device; none if it is in the host's network.
    """

    name: str
    uuid: str
    state: str
    mode: Mode | None
    strategy: str | None
    rootfs: str | None
    view: str | None
    init_pid: int | None
    id_maps: IdMaps | None
    reason: str
    rootfs_kind: RootfsKind | None
    archive: str | None
    volumes: tuple[Volume, ...]
    mode_reasons: tuple[str, ...]
    shared: tuple[str, ...]
    capabilities: tuple[str, ...]
    devices: tuple[Device, ...]
    max_processes: int | None
    hostname: str | None = None
    trace: Trace = field(default_factory=Trace)
    restart: RestartPolicy = RestartPolicy.NO
    interfaces: tuple[NetworkInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class StateReader:
    """Reader of the states of a host's containers.

    :param services: the services of the host.
    :param with_interfaces: whether to look at network interfaces.
    """

    services: Services
    with_interfaces: bool = False

    def describe_foreign(self, guest: Guest) -> Container:
        """Return what libvirt tells of a container that others have made."""
        maps, root = None, None
        mode: Mode | None = None
        # One that is gone meanwhile, or is no good, is shown all the same.
        with suppress(DomainXmlError, NoSuchContainerError):
            xml = self.services.guests.xml(guest.name)
            root = domain.read_root_source(xml)
            maps = domain.read_id_maps(xml)
            mode = "host" if maps is None else "private"
        start, interfaces = self._look(guest)
        return Container(
            name=guest.name,
            uuid=guest.uuid,
            state=_libvirts_state(guest, start),
            mode=mode,
            strategy=None,
            rootfs=root,
            view=None,
            init_pid=None if start is None else start.init_pid,
            id_maps=maps,
            reason="",
            rootfs_kind=None,
            archive=None,
            volumes=(),
            mode_reasons=(),
            shared=(),
            capabilities=(),
            devices=(),
            max_processes=None,
            interfaces=interfaces,
        )

    def describe(self, record: InstanceRecord) -> Container:
        """Return what is known of a container of ours."""
        guest = self.services.instances.find_guest(record)
        start, interfaces = self._look(guest)
        return replace(
            describe_record(record, _state(guest, start, record.verified)),
            init_pid=None if start is None else start.init_pid,
            trace=self._trace(record, guest),
            interfaces=interfaces,
        )

    def describe_all(self) -> list[Container]:
        """Return all containers, by name, those of others as well.

        One whose record is damaged, or of a newer version, is left out, with
        a warning.
        """
        found, names = [], set()
        for record in self.services.store.load_all():
            names.add(record.name)
            if isinstance(record, DamagedRecord):
                _LOG.warning("%s: %s", record.name, record.reason)
            else:
                found.append(self.describe(record))
        found += (
            self.describe_foreign(guest)
            for guest in self.services.guests.list()
            if guest.name not in names
        )
        return sorted(found, key=lambda each: each.name)

    def with_networks(self, container: Container) -> Container:
        """Add what libvirt has attached its interfaces to.

        Those of one that does not run are libvirt's.
        """
        networks: dict[str, str] = {}
        with suppress(DomainXmlError, NoSuchContainerError):
            xml = self.services.guests.xml(container.name)
            networks = domain.read_networks(xml)
        found = container.interfaces
        if container.init_pid is None:
            found = tuple(NetworkInterface(None, mac) for mac in networks)
        return replace(
            container,
            interfaces=tuple(
                replace(each, network=networks.get(each.mac)) for each in found
            ),
        )

    def _trace(self, record: InstanceRecord, guest: Guest | None) -> Trace:
        trace = self.services.traces.read(record.name)
        if guest is None or guest.controller is None:
            return trace
        try:
            kills = self.services.read_kills(guest.controller)
            trace = replace(trace, oom_kills=kills)
        except ProcessLookupError:
            # libvirt 9.0 loses the end of a container now and then.
            return trace
        except OSError:
            pass  # The kills are not told then.
        return replace(trace, ended=False)

    def _look(
        self, guest: Guest | None
    ) -> tuple[Verified | None, tuple[NetworkInterface, ...]]:
        """Return its start and its network interfaces, if it runs."""
        start: Verified | None = None
        interfaces: tuple[NetworkInterface, ...] = ()
        if guest is None or not guest.is_active:
            return start, interfaces
        with (
            # One that cannot be looked at keeps no one from seeing the rest.
            suppress(InstanceError, OSError),
            self.services.guests.init_process(guest.name) as init,
        ):
            start = self.services.inspector.mark(init)
            if self.with_interfaces:
                found = self.services.read_devices(init)
                interfaces = tuple(
                    NetworkInterface(each.name, each.mac, each.addresses)
                    for each in found
                )
        return start, interfaces


def describe_record(record: InstanceRecord, state: str) -> Container:
    """Return what is on record of a container.

    :param state: its state.
    """
    return Container(
        name=record.name,
        uuid=record.uuid,
        state=state,
        mode=record.mode,
        strategy=record.strategy.value,
        rootfs=record.rootfs,
        view=record.view,
        init_pid=None,
        id_maps=record.id_maps,
        reason=record.reason,
        rootfs_kind=record.rootfs_kind,
        archive=record.archive,
        volumes=record.volumes,
        mode_reasons=record.mode_reasons,
        shared=record.needs.host_namespaces,
        capabilities=record.needs.capabilities,
        devices=record.devices,
        max_processes=record.max_processes,
        hostname=record.hostname,
    )


def is_just_started(record: InstanceRecord) -> bool:
    """Return whether a container that runs is taken for just started."""
    # Without a mark it is as libvirt started it, for all that is known; with
    # one it has rebooted itself, and may have changed what it sees since.
    return record.verified is None


def _state(
    guest: Guest | None, start: Verified | None, verified: Verified | None
) -> str:
    if guest is None:
        return "incomplete"
    is_verified = start is not None and start.is_same_start(verified)
    state = _libvirts_state(guest, start)
    return UNVERIFIED if state in _RUNNING and not is_verified else state


def _libvirts_state(guest: Guest, start: Verified | None) -> str:
    # It was waited for the first process of one that reboots.
    return "stopped" if start is None and guest.is_lost else guest.state
