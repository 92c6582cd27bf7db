# SPDX-License-Identifier: Apache-2.0
"""A host in memory, but for records and leases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from lxc_userns.exceptions import (
    LibvirtError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.originals import OriginalDomains
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.libvirtd.definitions import DefinedDomains
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains
from lxc_userns.linux import locks
from lxc_userns.linux.process import Process, Rows
from lxc_userns.rootfs.shifting.state import State
from lxc_userns.spec.strategy import Strategy
from lxc_userns.subid.files import parse
from lxc_userns.subid.owners import IdOwnership

S = 65536


BASE = 2_000_000_000


UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"


OTHER_UUID = "5dce174d-7133-416f-be8b-e0fc2fac55de"


Shift = Callable[[str, State | None], None]


@dataclass
class FakeProcess:
    """One in a user namespace of its own."""

    pid: int
    uid_map: Rows
    gid_map: Rows
    parent: int = 1
    name: str = "sleep"

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class FakeGuests:
    """A libvirtd in memory."""

    found: list[Guest] = field(default_factory=list)
    is_there: bool = True
    rows: dict[str, Rows] = field(default_factory=dict)

    def list(self) -> list[Guest]:
        locks.check_none_held("list")
        if not self.is_there:
            raise LibvirtError("connect", "no such socket")
        return self.found


@dataclass(frozen=True)
class FakeRunningDomain(RunningDomain):
    """A running domain whose first process has these ID maps."""

    rows: Rows

    @contextmanager
    def init_process(self) -> Iterator[Process]:
        yield cast(Process, FakeProcess(2, self.rows, self.rows))


@dataclass
class FakeRunning(RunningDomains):
    """Running domains of a libvirtd in memory, whether or not it answers."""

    guests: FakeGuests

    def list(self) -> Iterator[RunningDomain]:
        for guest in self.guests.found:
            if guest.controller is not None:
                rows = self.guests.rows.get(guest.name, ())
                yield FakeRunningDomain(
                    guest.name, guest.controller, guest.uuid, rows
                )


@dataclass
class Host:
    """A host in memory, but for records and leases."""

    allocator: LeaseAllocator
    guests: FakeGuests
    processes: list[FakeProcess]
    ids: dict[str, IdOwnership]

    def reach(self, **ports: Any) -> None:
        """Reach the machine in another way from now on."""
        clock = ports.pop("clock", self.allocator.clock)
        pool = replace(self.allocator.pool, **ports)
        self.allocator = LeaseAllocator(pool, clock)

    def set_pool(self, uid: str, gid: str | None = None) -> None:
        for kind, text in (
            ("user", uid),
            ("group", uid if gid is None else gid),
        ):
            self.ids[kind] = IdOwnership(
                kind, {}, *parse(text), source="/etc/x"
            )

    def run(self, pid: int, start: int, count: int, parent: int = 1) -> None:
        rows = ((0, start, count),)
        self.processes.append(FakeProcess(pid, rows, rows, parent))

    def starts(self) -> dict[str, int]:
        with self.allocator.leases.read() as leases:
            return {each.instance: each.uid_start for each in leases.all()}

    def save(self, name: str, maps: IdMaps | None, **values: object) -> None:
        self.allocator.instances.store.save(record(name, maps, **values))


def record(name: str, maps: IdMaps | None, **values: object) -> InstanceRecord:
    made = InstanceRecord(
        name=name,
        uuid=UUID,
        rootfs="/srv/x",
        id_maps=maps,
        strategy=Strategy.IDMAPPED,
        view="/run/x",
    )
    return replace(made, **values)  # type: ignore[arg-type]


def maps(start: int, count: int = S) -> IdMaps:
    each = IdMap.parse(f"0:{start}:{count}")
    return IdMaps(each, each)


def use(host: Host, name: str, path: Path, how: str = "chown") -> None:
    """Lease a range, and be about to use something on disk with it."""
    lease = host.allocator.acquire(name)
    made = record(
        name, lease.id_maps, strategy=Strategy(how), rootfs=str(path)
    )
    with host.allocator.commit_record(made):
        pass


@dataclass
class FakeServices:
    """Services with what the collection needs."""

    host: Host
    cleared: list[str] = field(default_factory=list)
    error: Exception | None = None
    meanwhile: Callable[[], object] = int

    #: Called when an instance is about to be locked.
    before: Callable[[str], object] = str

    #: Called when libvirt was asked, and no lock of it is held yet.
    after_asking: Callable[[str], object] = str

    #: Where definitions of domains are.
    definitions: Path = Path("/nonexistent")

    @property
    def allocator(self) -> LeaseAllocator:
        return self.host.allocator

    @property
    def guests(self) -> FakeGuests:
        return self.host.guests

    @property
    def instances(self) -> Instances:
        return self.allocator.instances

    @property
    def defined(self) -> DefinedDomains:
        return DefinedDomains(self.definitions)

    @property
    def store(self) -> "LockedStore":
        return LockedStore(self.allocator.leases.file, self)

    @property
    def originals(self) -> OriginalDomains:
        file = Path(self.allocator.leases.file)
        return OriginalDomains(str(file.parent))

    @property
    def releaser(self) -> "FakeServices":
        return self

    def release(self, name: str, give_back: Callable[[str], bool]) -> bool:
        if self.error is not None:
            raise self.error
        self.cleared.append(name)
        self.meanwhile()
        self.store.remove(name)
        return give_back(name)


class LockedStore(InstanceStore):
    """A store that tells when an instance is about to be locked."""

    def __init__(self, leases: str, services: FakeServices) -> None:
        super().__init__(str(Path(leases).parent))
        self._services = services

    @contextmanager
    def lock_container(self, name: str) -> Iterator[None]:
        with super().lock_container(name):
            self._services.before(name)
            yield

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        self._services.after_asking(name)
        with super().lock(name):
            yield


@dataclass
class Directory:
    """A directory service that lists no one."""

    names: dict[int, str] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def find(self, number: int) -> object:
        self.asked.append(number)
        name = self.names[number]
        return SimpleNamespace(pw_name=name, gr_name=name)
