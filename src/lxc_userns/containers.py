# SPDX-License-Identifier: Apache-2.0
"""Whole containers, for those who have no compute service."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

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
    read_bridges,
    read_id_maps,
    read_root_source,
)
from lxc_userns.domain.limits import DEFAULT_PERIOD
from lxc_userns.exceptions import (
    ConfigError,
    ContainerExistsError,
    DomainXmlError,
    InstanceError,
    IsolationError,
    NeedsError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.verified import Verified
from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.client import LOG_DIRECTORY, STOP_TIMEOUT, Guest
from lxc_userns.linux import hostname
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.rollback import undo
from lxc_userns.rootfs.views.strategies import Progress
from lxc_userns.spec.policy import OFF
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED,
    Device,
    Mode,
    Requirements,
)
from lxc_userns.spec.rootfs_kind import RootfsKind
from lxc_userns.spec.volume import Volume
from lxc_userns.traces import memory
from lxc_userns.traces.trace import Trace
from lxc_userns.verification import VerifiedInstance

_LOG = logging.getLogger(__name__)

#: A process in all of the host's namespaces, for as long as it is up.
_HOST_PID = "1"
#: State of a container that runs, and was not verified since it started.
UNVERIFIED = "unverified"
_MOST_CPUS = 65536
_RUNNING = frozenset({"running", "paused"})


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
                "strategy": prepared.record.strategy,
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


@dataclass(frozen=True, slots=True)
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
    :param view: where that is mounted for it.
    :param init_pid: host's process ID of its first process while it runs.
    :param id_maps: what it was promised.
    :param trace: what is known of its last run.
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
    trace: Trace = field(default_factory=Trace)


class Containers:
    """The containers of a host.

    Stopping, starting and destroying one that a compute service made is
    possible too, but that service will not expect it.
    """

    def __init__(self, manager: UserNamespaceManager) -> None:
        self._manager = manager
        self._guests = manager.guests
        self._store = manager.store

    def run(
        self, spec: ContainerSpec, progress: Progress | None = None
    ) -> VerifiedInstance:
        """Make a container and start it.

        If that fails nothing of it is left; its root filesystem may be
        shifted, wholly or in part.

        :raises ContainerExistsError: if the name is taken. A container of
            that name that runs unverified is verified before, or destroyed.
        :raises ConfigError: if no ID maps are configured.
        :raises LxcUsernsError: if anything else is in the way.
        """
        request = spec.to_request(self._manager.security_model)
        with self._store.lock_container(spec.name):
            known = self._store.load(spec.name)
            if known is not None and self._is_unverified(known):
                self._finish(known)
            if known is not None or self._guests.find(spec.name):
                raise ContainerExistsError(spec.name)
            plan = self._manager.plan(request)
            _check_meant(plan)
            # Before anything changes on disk: it may be refused.
            _check_bridges(spec.name, spec.to_domain(plan).to_xml())
            with ExitStack() as stack:
                before = self._manager.allocator.find(spec.name)
                prepared = self._manager.prepare(request, progress)
                undo(stack, self._manager.withdraw, spec.name, before)
                xml = spec.to_domain(prepared).to_xml()
                self._guests.define(spec.name, xml)
                undo(stack, self._guests.undefine, spec.name)
                return self._start(spec.name, stack)

    def start(
        self,
        name: str,
        progress: Progress | None = None,
        *,
        accept_replaced: bool = False,
    ) -> VerifiedInstance:
        """Start a container that was stopped.

        One that runs unverified, because whoever started it was killed before
        it was verified, or because it has rebooted itself, is verified, or
        destroyed.

        :param accept_replaced: whether root filesystem and volumes may be
            other files than those that it was made with.
        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it runs verified, or was only half made.
        """
        with self._locked(name) as record:
            self._guests.end_lost(name, record.uuid)
            guest = self._manager.find_guest(record)
            if guest is None:
                raise InstanceError(name, "is incomplete; destroy it")
            if self._is_unverified(record):
                return self._finish(record)
            if guest.is_active:
                raise InstanceError(name, "is running already")
            with ExitStack() as stack:
                _check_bridges(name, self._guests.xml(name))
                self._manager.prepare_again(
                    name, progress, accept_replaced=accept_replaced
                )
                undo(stack, self._manager.detach, name)
                return self._start(name, stack)

    def stop(self, name: str, timeout: float = STOP_TIMEOUT) -> None:
        """Stop a container and unmount its view; nothing if it is stopped.

        :param timeout: seconds that it has to stop by itself.
        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._locked(name) as record:
            if self._manager.find_guest(record) is not None:
                self._guests.stop(name, timeout)
            self._manager.detach(name)

    def destroy(self, name: str) -> None:
        """Kill a container and forget it, whatever state it is in.

        A directory or image that was given as its root filesystem is left
        alone, and stays shifted if it was. What was unpacked for it from an
        archive, or changed on its overlay, is removed.

        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._locked(name) as record:
            if self._manager.find_guest(record) is not None:
                self._guests.destroy(name)
                self._guests.undefine(name)
            self._manager.release(name)

    def verify(
        self, name: str, *, report_only: bool = False
    ) -> VerifiedInstance:
        """Compare a running container with what was promised.

        One that was never verified since it was prepared is taken for just
        started, as by who was killed before verifying it.

        :param report_only: as for :meth:`UserNamespaceManager.verify
            <lxc_userns.manager.UserNamespaceManager.verify>`, and errors too.
        """
        record = self._store.load(name)
        return self._manager.verify(
            name,
            started=record is not None and _is_just_started(record),
            report_only=report_only,
        )

    def show(self, name: str) -> Container:
        """A container as it is now.

        :raises NoSuchContainerError: if there is none of this name.
        """
        record = self._store.load(name)
        if record is not None:
            return self._describe(record)
        guest = self._guests.find(name)
        if guest is None:
            raise NoSuchContainerError(name)
        return self._describe_foreign(guest)

    def list(self) -> list[Container]:
        """All containers as they are now, by name, those of others as well.

        One whose record is damaged, or of a newer version, is left out, with
        a warning.
        """
        found, names = [], set()
        for record in self._store.load_all():
            names.add(record.name)
            if isinstance(record, DamagedRecord):
                _LOG.warning("%s: %s", record.name, record.reason)
            else:
                found.append(self._describe(record))
        found += (
            self._describe_foreign(guest)
            for guest in self._guests.list()
            if guest.name not in names
        )
        return sorted(found, key=lambda each: each.name)

    @contextmanager
    def _locked(self, name: str) -> Iterator[InstanceRecord]:
        self._record(name)  # No lock for what is not there.
        with self._store.lock_container(name):
            yield self._record(name)

    def _finish(self, record: InstanceRecord) -> VerifiedInstance:
        """Finish the start of a container that runs unverified, or end it."""
        name = record.name
        started = _is_just_started(record)
        with ExitStack() as stack:
            if started:
                undo(stack, self._manager.detach, name)
                undo(stack, self._guests.destroy, name)
            try:
                return self._manager.verify(name, started=started)
            except IsolationError:  # It was destroyed.
                undo(stack, self._manager.detach, name)
                raise

    def _is_unverified(self, record: InstanceRecord) -> bool:
        return self._describe(record).state == UNVERIFIED

    def _start(self, name: str, stack: ExitStack) -> VerifiedInstance:
        # Registered first: a start that libvirt gave up on can leave it half
        # running.
        undo(stack, self._guests.destroy, name)
        with self._manager.traces.watched(name) as watch:
            # libvirt names every container, also one that shares the host's
            # name.
            with hostname.preserve():
                self._guests.start(name)
            try:
                return self._manager.verify(name, started=True)
            except NotRunningError as err:
                raise _ended_at_once(name, watch.wait()) from err

    def _record(self, name: str) -> InstanceRecord:
        record = self._store.load(name)
        if record is not None:
            return record
        if self._guests.find(name) is None:
            raise NoSuchContainerError(name)
        raise InstanceError(
            name,
            "libvirt has a domain of this name that others have made; start, "
            "stop and undefine it by what made it",
        )

    def _describe_foreign(self, guest: Guest) -> Container:
        """Return what libvirt tells of a container that others have made."""
        maps, root = None, None
        mode: Mode | None = None
        # One that is gone meanwhile, or is no good, is shown all the same.
        with suppress(DomainXmlError, NoSuchContainerError):
            xml = self._guests.xml(guest.name)
            root = read_root_source(xml)
            maps = read_id_maps(xml)
            mode = "host" if maps is None else "private"
        start = self._find_start(guest.name) if guest.is_active else None
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
        )

    def _describe(self, record: InstanceRecord) -> Container:
        guest = self._manager.find_guest(record)
        start = None
        if guest is not None and guest.is_active:
            start = self._find_start(record.name)
        return Container(
            record.name,
            record.uuid,
            _state(guest, start, record.verified),
            record.mode,
            record.strategy,
            record.rootfs,
            record.view,
            None if start is None else start.init_pid,
            record.id_maps,
            record.reason,
            record.rootfs_kind,
            record.archive,
            record.volumes,
            record.mode_reasons,
            record.needs.host_namespaces,
            record.needs.capabilities,
            record.devices,
            record.max_processes,
            self._trace(record, guest),
        )

    def _trace(self, record: InstanceRecord, guest: Guest | None) -> Trace:
        trace = self._manager.traces.read(record.name)
        if guest is None or guest.controller is None:
            return trace
        try:
            files = memory.find_files(guest.controller)
            trace = replace(trace, oom_kills=memory.count_kills(files))
        except ProcessLookupError:
            # libvirt 9.0 loses the end of a container now and then.
            return trace
        except OSError:
            pass  # The kills are not told then.
        return replace(trace, ended=False)

    def _find_start(self, name: str) -> Verified | None:
        with (
            # One that cannot be looked at keeps nobody from seeing the rest.
            suppress(InstanceError, OSError),
            self._guests.init_process(name) as init,
        ):
            return Verified.now(init)
        return None


def _ended_at_once(name: str, trace: Trace) -> InstanceError:
    how = trace.describe() or "the reason is not known"
    said = "; ".join(trace.console)
    printed = f"it printed: {said}" if said else "it printed nothing"
    log = f"{LOG_DIRECTORY}/{name}.log"
    return InstanceError(
        name,
        f"its first process ended at once: {how}; {printed}; what libvirt "
        f"says is in {log}",
    )


def _is_just_started(record: InstanceRecord) -> bool:
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


def _check_bridges(name: str, xml: str) -> None:
    # libvirt makes a pair of devices, and leaves it when it cannot attach it.
    bridges = read_bridges(xml)
    found = daemon.find() if bridges else None
    if found is None:
        return
    with suppress(OSError):  # It is being restarted.
        for bridge in sorted({*bridges} - found.network_devices):
            raise InstanceError(
                name,
                f"there is no bridge {bridge} where libvirt looks; make it: "
                f"ip link add {bridge} type bridge",
            )


def _check_meant(plan: PreparedInstance) -> None:
    """Refuse to run in the host's user namespace because none was set up."""
    if OFF in plan.mode_reasons and plan.record.needs.mode != "host":
        raise ConfigError(
            "[libvirt] uid_maps, gid_maps",
            "",
            "are empty, so that the container's root would be the host's; "
            "set both, or [lxc_userns] subid_owner",
        )
