# SPDX-License-Identifier: Apache-2.0
"""A host in memory, but for the records and the root filesystem."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from oslo_config import cfg

from lxc_userns.config.settings import Settings
from lxc_userns.containers import Containers, ContainerSpec
from lxc_userns.exceptions import (
    LibvirtError,
    NoSuchContainerError,
    NotRunningError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.leases import Lease
from lxc_userns.leases.running import ProcessTable
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains
from lxc_userns.linux import locks
from lxc_userns.linux.process import Process, Rows
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.ports import Ports
from lxc_userns.resources.control_groups import ControlGroups
from lxc_userns.rootfs.views import mountpoints, strategies
from lxc_userns.rootfs.views.source import RootfsSource
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.strategy import Strategy
from lxc_userns.traces.store import Traces
from lxc_userns.traces.trace import Trace
from lxc_userns.verification import Observed, VerifiedInstance
from lxc_userns.verification.inspector import Inspector
from tests.unit.verification.observation import evidence

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"


ID_MAP = IdMap.parse("0:100000:65536")


MAPS = IdMaps(ID_MAP, ID_MAP)


OTHER = IdMaps(IdMap.parse("0:300000:65536"), IdMap.parse("0:300000:65536"))


class FakeStrategy:
    """Shifts and mounts in memory."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.mounted: set[str] = set()
        self.fail_at = ""

    def _step(self, step: str) -> None:
        self.log.append(step)
        if step == self.fail_at:
            raise RootfsError("/x", f"{step} failed")

    def prepare_tree(
        self,
        tree: RootfsSource,
        id_maps: IdMaps | None,
        options: strategies.ShiftOptions,
    ) -> None:
        self._step("shift" if id_maps else "leave")

    def mount(
        self,
        tree: RootfsSource,
        id_maps: IdMaps | None,
        place: strategies.MountTarget,
    ) -> None:
        raise AssertionError("FakeViews mounts")


class FakeViews(mountpoints.Views):
    """Views that are mounted in memory."""

    def __init__(self, run_path: str, strategy: FakeStrategy) -> None:
        super().__init__(run_path)
        self.strategy = strategy

    def mount(
        self,
        instance: str,
        name: str,
        id_maps: IdMaps | None,
        mounter: mountpoints.Mounter,
        *,
        is_directory: bool = True,
    ) -> None:
        self.strategy._step("mount")
        self.strategy.mounted.add(instance)

    def is_mounted(self, instance: str) -> bool:
        return instance in self.strategy.mounted

    def unmount(self, instance: str) -> None:
        self.strategy._step("unmount")
        self.strategy.mounted.discard(instance)


@dataclass
class FakeInit:
    pid: int = 4242
    uid_map: Rows = ((0, 100000, 65536),)
    gid_map: Rows = ((0, 100000, 65536),)
    user_namespace: tuple[int, int] = (4, 1)
    start_time: int = 1000


@dataclass
class FakeGuests:
    """A libvirtd in memory."""

    log: list[str]
    domains: dict[str, Guest] = field(default_factory=dict)
    init: FakeInit = field(default_factory=FakeInit)
    fail_at: str = ""
    capabilities_xml: str = "<capabilities/>"
    defined: str = ""
    lost: list[str] = field(default_factory=list)

    def _step(self, step: str) -> None:
        locks.check_none_held(step)
        self.log.append(step)
        if step == self.fail_at:
            raise LibvirtError(step, "no")

    def find(self, name: str) -> Guest | None:
        locks.check_none_held("look up")
        return self.domains.get(name)

    def list(self) -> list[Guest]:
        locks.check_none_held("list")
        return [*self.domains.values()]

    def add(self, name: str, *, active: bool = True, uuid: str = UUID) -> None:
        state = "running" if active else "stopped"
        self.domains[name] = Guest(name, uuid, state, 4200 if active else None)

    def define(self, name: str, xml: str) -> None:
        self._step("define")
        self.defined = xml
        self.add(name, active=False, uuid=xml.split("<uuid>")[1][:36])

    def undefine(self, name: str) -> None:
        self._step("undefine")
        del self.domains[name]

    def start(self, name: str) -> None:
        self._step("start")
        self.add(name, uuid=self.domains[name].uuid)

    def destroy(self, name: str, uuid: str | None = None) -> None:
        self._step("destroy")
        if name in self.domains:
            self.add(name, active=False, uuid=self.domains[name].uuid)

    def stop(self, name: str, timeout: float) -> None:
        self._step("stop")
        self.destroy(name)

    @contextmanager
    def init_process(self, name: str) -> Iterator[Process]:
        guest = self.find(name)
        if guest is None or not guest.is_active:
            raise NotRunningError(name)
        yield cast(Process, self.init)

    def capabilities(self) -> str:
        locks.check_none_held("read the capabilities")
        return self.capabilities_xml

    def has_missed_end(self, name: str) -> bool:
        return name in self.lost

    def end_lost(self, name: str, uuid: str) -> None:
        if name in self.lost:
            self.lost.remove(name)
            self.destroy(name, uuid)

    def xml(self, name: str) -> str:
        locks.check_none_held("read the XML")
        if name not in self.domains:
            raise NoSuchContainerError(name)
        return "<domain type='lxc'><os><type>exe</type></os></domain>"


@dataclass(frozen=True)
class FakeRunningDomain(RunningDomain):
    """A running domain, with the one process of all."""

    init: FakeInit

    @contextmanager
    def init_process(self) -> Iterator[Process]:
        yield cast(Process, self.init)


@dataclass
class FakeRunning(RunningDomains):
    """Running domains of a libvirtd in memory."""

    guests: FakeGuests

    def list(self) -> Iterator[RunningDomain]:
        for guest in self.guests.domains.values():
            if guest.controller and guest.name not in self.guests.lost:
                yield FakeRunningDomain(
                    guest.name, guest.controller, guest.uuid, self.guests.init
                )


@dataclass
class FakeWatch:
    trace: Trace

    def wait(self) -> Trace:
        return self.trace


@dataclass
class FakeTraces:
    """Traces of no containers."""

    last: Trace = field(default_factory=Trace)
    #: Of one that is started meanwhile.
    next: Trace = field(default_factory=Trace)
    stopped: int | None = None

    def note_stop(self, _name: str, controller: int | None) -> None:
        self.stopped = controller or 0

    def stopped_run(self, _name: str) -> int | None:
        return self.stopped

    @contextmanager
    def watched(self, _name: str) -> Iterator[FakeWatch]:
        yield FakeWatch(self.next)

    def read(self, _name: str) -> Trace:
        return self.last

    def open_console(self, _name: str, *, older: bool = False) -> None:
        """Nothing was printed."""

    def remove(self, _name: str) -> None:
        pass


class LostGuest(Guest):
    """A domain whose end libvirt has missed."""

    is_lost = True


@dataclass
class FakeDaemon:
    """A libvirtd with some network devices."""

    network_devices: frozenset[str]

    def kind_of_device(self, name: str) -> str:
        return "bridge" if name.startswith("br") else ""


@dataclass
class World:
    """A host in memory, but for the records and the root filesystem."""

    conf: cfg.ConfigOpts
    guests: FakeGuests
    strategy: FakeStrategy
    views: FakeViews
    traces: FakeTraces
    ports: Ports
    log: list[str]
    rootfs: str
    request: InstanceRequest

    @property
    def manager(self) -> UserNamespaceManager:
        return UserNamespaceManager(
            self.conf, cast(Guests, self.guests), ports=self.ports
        )

    def reach(self, **ports: Any) -> None:
        """Reach the machine in another way from now on."""
        self.ports = replace(self.ports, **ports)

    def inspect(self, **steps: Any) -> None:
        """Verify by other steps from now on."""
        assert self.ports.inspector is not None
        self.reach(inspector=replace(self.ports.inspector, **steps))

    @property
    def services(self) -> Services:
        settings = Settings.from_conf(self.conf)
        guests = cast(Guests, self.guests)
        return Services(settings, guests, ports=self.ports)

    def plan(self, request: InstanceRequest) -> PreparedInstance:
        """Return what would be prepared."""
        services = self.services
        known = services.store.load(request.name)
        return PreparedInstance(services.planner.preview(request, known))

    def verb(self, name: str) -> Callable[[InstanceRequest], PreparedInstance]:
        """Return a verb on requests, or ``plan``."""
        found: Callable[[InstanceRequest], PreparedInstance] = getattr(
            self if name == "plan" else self.manager, name
        )
        return found

    def report(self, *, started: bool) -> VerifiedInstance:
        """Compare ``web1`` and change nothing."""
        services = self.services
        record = services.store.load("web1")
        assert record is not None
        return services.verifier.report(record, started=started)

    @property
    def containers(self) -> Containers:
        return Containers(self.manager, self.services)

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            group = "libvirt" if name.endswith("_maps") else "lxc_userns"
            self.conf.set_override(name, value, group)


def make_ports(
    strategy: FakeStrategy,
    views: FakeViews,
    traces: FakeTraces,
    run: Path,
    guests: FakeGuests,
) -> Ports:
    """Make ports that reach nothing of the machine."""

    def observe(name: str, init: Process) -> Observed:
        first = init.uid_map[0][1] if init.uid_map else 0
        return replace(
            evidence(first, f"{run}/{name}/root"),
            pid=int(init.pid),
            uid_map=init.uid_map,
            gid_map=init.gid_map,
        )

    return Ports(
        views=lambda _path: views,
        strategies={Strategy.CHOWN: strategy, Strategy.BIND: strategy},
        traces=lambda _path: cast(Traces, traces),
        groups=ControlGroups(
            check_start=lambda *_: None,
            make=lambda *_: None,
            remove=lambda *_: None,
        ),
        inspector=Inspector(
            revoke=lambda _init: [],
            observe=observe,
            enforce=lambda *_: [],
            differences=lambda *_: [],
            limit=lambda _init: strategy.log.append("limit"),
            sleep=lambda _seconds: None,
        ),
        running=FakeRunning(guests),
        processes=ProcessTable(find=lambda: ()),
        read_kills=lambda _controller: 0,
        find_daemon=lambda: None,
        read_devices=lambda _init: [],
    )


HELD = r"host IDs 100000-165535 are held by user alice \(100500\); map IDs"


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    return fail


def run(world: World) -> None:
    world.containers.run(ContainerSpec("web1", world.rootfs))


POOL = "lxc:2000000000:131072\n"


def leased(number: int) -> IdMaps:
    each = IdMap.parse(f"0:{2_000_000_000 + number * 65536}:65536")
    return IdMaps(each, each)


def another(world: World, name: str) -> InstanceRequest:
    """An instance with a UUID and a root filesystem of its own."""
    rootfs = Path(world.rootfs).with_name(name)
    rootfs.mkdir()
    return InstanceRequest(name, another_uuid(name), str(rootfs))


def another_uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def lease_of(world: World, name: str) -> Lease | None:
    return world.services.allocator.find(name)
