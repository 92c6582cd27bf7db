# SPDX-License-Identifier: Apache-2.0
"""The pipeline: its order, its refusals, and what it undoes."""

import errno
import os
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from oslo_config import cfg

from lxc_userns import resources, services, shift_by_hand, verification
from lxc_userns.config.options import register_opts
from lxc_userns.containers import Containers, ContainerSpec
from lxc_userns.domain import Interface
from lxc_userns.exceptions import (
    ConfigError,
    ContainerExistsError,
    InspectionError,
    InstanceError,
    IsolationError,
    LeaseError,
    LibvirtError,
    LibvirtUnreachableError,
    LxcUsernsError,
    NoSuchContainerError,
    NotRunningError,
    PolicyError,
    PoolExhaustedError,
    ReplacedError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances import verified
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.leases import Lease, gc, running
from lxc_userns.libvirtd.client import Guest, Guests
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux import directory
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.linux.process import Process, Rows
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.resources import partition, systemd_hierarchy
from lxc_userns.rootfs.views import mountpoints, strategies
from lxc_userns.rootfs.views.source import RootfsSource
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements
from lxc_userns.spec.rootfs_kind import RootfsKind
from lxc_userns.spec.strategy import Strategy
from lxc_userns.subid import owners
from lxc_userns.subid.files import parse
from lxc_userns.subid.owners import IdOwnership
from lxc_userns.traces import memory
from lxc_userns.traces.trace import Trace
from lxc_userns.verification import VerifiedInstance, ucounts, verifier
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
    """Of all run paths together."""

    strategy: FakeStrategy

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
        self.log.append(step)
        if step == self.fail_at:
            raise LibvirtError(step, "no")

    def find(self, name: str) -> Guest | None:
        return self.domains.get(name)

    def list(self) -> list[Guest]:
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
            raise InstanceError(name, "is not running")
        yield cast(Process, self.init)

    def capabilities(self) -> str:
        return self.capabilities_xml

    def has_missed_end(self, name: str) -> bool:
        return name in self.lost

    def end_lost(self, name: str, uuid: str) -> None:
        if name in self.lost:
            self.lost.remove(name)
            self.destroy(name, uuid)

    def xml(self, name: str) -> str:
        if name not in self.domains:
            raise NoSuchContainerError(name)
        return "<domain type='lxc'><os><type>exe</type></os></domain>"


class FakeWatch:
    def wait(self) -> Trace:
        return Trace(ended=True, status=3 << 8, console=("hello",))


class FakeTraces:
    """Of no containers."""

    def __init__(self, _state_path: str) -> None:
        pass

    @contextmanager
    def watched(self, _name: str) -> Iterator[FakeWatch]:
        yield FakeWatch()

    def read(self, _name: str) -> Trace:
        return Trace()

    def remove(self, _name: str) -> None:
        pass


@dataclass
class World:
    """A host in memory, but for the records and the root filesystem."""

    conf: cfg.ConfigOpts
    guests: FakeGuests
    strategy: FakeStrategy
    log: list[str]
    rootfs: str
    request: InstanceRequest

    @property
    def manager(self) -> UserNamespaceManager:
        return UserNamespaceManager(self.conf, cast(Guests, self.guests))

    @property
    def services(self) -> Services:
        return self.manager.services

    @property
    def containers(self) -> Containers:
        return Containers(self.manager)

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            group = "libvirt" if name.endswith("_maps") else "lxc_userns"
            self.conf.set_override(name, value, group)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    log: list[str] = []
    strategy = FakeStrategy(log)
    monkeypatch.setattr(FakeViews, "strategy", strategy, raising=False)
    monkeypatch.setattr(mountpoints, "Views", FakeViews)
    monkeypatch.setattr(services, "Traces", FakeTraces)
    monkeypatch.setattr(memory, "find_files", lambda _controller: [])
    monkeypatch.setattr(ucounts, "apply", lambda _init: log.append("limit"))
    monkeypatch.setattr(verification, "revoke", lambda _init: [])
    for name in ("differences", "enforce"):
        monkeypatch.setattr(resources, name, lambda *_: [])
    for name in ("find", "make", "remove"):
        monkeypatch.setattr(partition, name, lambda *_: None)
    monkeypatch.setattr(systemd_hierarchy, "check_start", lambda *_: None)

    def gather(name: str, init: FakeInit) -> verification.Observed:
        view = f"{tmp_path}/run/{name}/root"
        found = evidence(init.uid_map[0][1] if init.uid_map else 0, view)
        return replace(
            found,
            pid=init.pid,
            uid_map=init.uid_map,
            gid_map=init.gid_map,
        )

    monkeypatch.setattr(verification, "observe", gather)
    # pytest's own directories are closed to others.
    monkeypatch.setattr(directory, "check_passable", lambda _path: None)
    monkeypatch.setattr(verifier, "_PAUSE", 0)
    monkeypatch.setattr(
        strategies,
        "STRATEGIES",
        {Strategy.CHOWN: strategy, Strategy.BIND: strategy},
    )
    rootfs = tmp_path / "rootfs"
    (rootfs / "sbin").mkdir(parents=True)
    (rootfs / "sbin/init").touch(0o755)
    request = InstanceRequest("web1", UUID, str(rootfs))
    made = World(conf, FakeGuests(log), strategy, log, str(rootfs), request)
    made.set(
        uid_maps=[str(ID_MAP)],
        gid_maps=[str(ID_MAP)],
        rootfs_strategy="chown",
        state_path=str(tmp_path / "state"),
        run_path=str(tmp_path / "run"),
    )
    return made


def test_prepare_gives_what_the_domain_needs(
    world: World, tmp_path: Path
) -> None:
    prepared = world.manager.prepare(world.request)
    assert world.log == ["shift", "mount"]
    assert (prepared.name, prepared.uuid) == ("web1", UUID)
    assert (prepared.mode, prepared.id_maps) == ("private", MAPS)
    assert prepared.root == f"{tmp_path}/run/web1/root"
    (filesystem,) = prepared.filesystems
    assert (filesystem.source, filesystem.target) == (prepared.root, "/")
    assert prepared.needs_private_network
    assert world.services.store.load("web1") == prepared.record


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes a user who has an ID of the containers."""

    def make() -> None:
        user = IdOwnership("user", {100500: "alice"}, ())
        monkeypatch.setattr(owners, "read_host_uids", lambda *_: user)
        group = IdOwnership("group", {}, ())
        monkeypatch.setattr(owners, "read_host_gids", lambda *_: group)

    return make


HELD = r"host IDs 100000-165535 are held by user alice \(100500\); map IDs"


@pytest.mark.parametrize("verb", ["plan", "reserve", "prepare"])
@pytest.mark.parametrize("given", [None, MAPS])
def test_ids_of_a_user_of_the_host_stop_a_start(
    world: World, alice: Callable[[], None], verb: str, given: IdMaps | None
) -> None:
    alice()
    request = replace(world.request, id_maps=given)
    subject = "uid_maps of web1" if given else r"\[libvirt\] uid_maps"
    with pytest.raises(ConfigError, match=f"{subject} = .*{HELD}"):
        getattr(world.manager, verb)(request)
    assert world.log == []
    assert world.services.store.load("web1") is None
    world.set(held_ids="allow")
    assert getattr(world.manager, verb)(request).id_maps == MAPS


def test_ids_of_a_new_user_stop_a_later_start(
    world: World, alice: Callable[[], None]
) -> None:
    spec = ContainerSpec("web1", world.rootfs)
    world.containers.run(spec)
    world.containers.stop("web1")
    alice()
    with pytest.raises(ConfigError, match=f"uid_maps of web1 = .*{HELD}"):
        world.containers.start("web1")
    assert not world.guests.domains["web1"].is_active
    with pytest.raises(ConfigError, match=HELD):
        world.containers.run(replace(spec, name="web2"))
    world.set(held_ids="allow")
    world.containers.start("web1")


def test_a_problem_of_the_configuration_stops_a_later_start(
    world: World,
) -> None:
    world.containers.run(ContainerSpec("web1", world.rootfs))
    world.containers.stop("web1")
    world.set(uid_maps=["0:0:1"])
    with pytest.raises(ConfigError, match="uid_maps = 0:0:1"):
        world.containers.start("web1")


@pytest.mark.parametrize("verb", ["plan", "reserve", "prepare"])
@pytest.mark.parametrize(("name", "mode"), [("state", 0o700), ("run", 0o711)])
def test_directories_of_ours_are_looked_at_first(
    world: World, tmp_path: Path, verb: str, name: str, mode: int
) -> None:
    path = tmp_path / name
    path.mkdir()
    path.chmod(0o755)
    with pytest.raises(ConfigError) as caught:
        getattr(world.manager, verb)(world.request)
    assert str(caught.value) == (
        f"[lxc_userns] {name}_path = {path}: {path} has mode 0755, it may "
        f"have {mode:04o} at most; chmod {mode:04o} {path}"
    )
    assert not hasattr(caught.value, "__notes__")
    assert world.log == []
    assert [*path.iterdir()] == []


def test_a_name_means_the_same_to_all(world: World) -> None:
    """A container of others is seen by all commands, and changed by none."""
    containers = world.containers
    containers.run(ContainerSpec("web1", world.rootfs))
    world.guests.add("theirs")
    shown = containers.show("theirs")
    assert (shown.state, shown.mode, shown.strategy) == (
        "running", "host", None
    )  # fmt: skip
    assert [each.name for each in containers.list()] == ["theirs", "web1"]
    assert containers.list()[0] == shown
    for verb in (containers.start, containers.stop, containers.destroy):
        with pytest.raises(InstanceError, match="that others have made"):
            verb("theirs")
    assert world.guests.domains["theirs"].is_active
    for name in ("show", "start", "stop", "destroy"):
        with pytest.raises(NoSuchContainerError):
            getattr(containers, name)("nosuch")
    with pytest.raises(NoSuchContainerError):
        world.manager.verify("nosuch", started=False)


def test_ids_of_the_pool_are_held_by_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps of a request may be those of a lease."""
    for kind in ("user", "group"):
        ranges, _ = parse("nova:100000:65536\nlxc-userns:300000:65536")
        host = IdOwnership(kind, {}, ranges)
        monkeypatch.setattr(
            owners, f"read_host_{kind[0]}ids", lambda *_, host=host: host
        )
    with pytest.raises(ConfigError, match="subordinate user IDs of nova"):
        world.manager.plan(replace(world.request, id_maps=MAPS))
    world.set(uid_maps=[], gid_maps=[], subid_owner="nova")
    for maps in (MAPS, OTHER):
        plan = world.manager.plan(replace(world.request, id_maps=maps))
        assert plan.id_maps == maps


def write_tar(path: Path) -> str:
    with tarfile.open(path, "w") as stream:
        stream.addfile(tarfile.TarInfo("file"))
    return str(path)


def test_the_kind_of_a_root_filesystem_is_found_out(
    world: World, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    archive = write_tar(tmp_path / "archive")
    found = [
        world.manager.plan(replace(world.request, rootfs=path)).record
        for path in (world.rootfs, str(image), archive)
    ]
    kinds = [each.rootfs_kind for each in found]
    assert kinds == ["directory", "image", "archive"]
    assert [each.archive for each in found] == [None, None, archive]


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("image", "rootfs", "is a directory; give a disk image"),
        ("archive", "rootfs", "is no tar archive"),
        ("archive", "image", "is no tar archive"),
        ("image", "archive", "is a tar archive, and no raw image of"),
        ("directory", "image", "is no directory"),
        ("directory", "archive", "is no directory"),
    ],
)
def test_the_content_never_decides(
    world: World, tmp_path: Path, kind: RootfsKind, given: str, reason: str
) -> None:
    (tmp_path / "image").write_bytes(bytes(4096))
    write_tar(tmp_path / "archive")
    path = str(tmp_path / given)
    request = replace(world.request, rootfs=path, rootfs_kind=kind)
    with pytest.raises(RootfsError, match=reason):
        world.manager.prepare(request)
    assert world.log == []
    assert world.services.store.load("web1") is None
    assert not (tmp_path / "state/private").exists()


def test_a_kind_that_is_none(world: World) -> None:
    request = replace(world.request, rootfs_kind=cast(Any, "tape"))
    for prepare in (world.manager.reserve, world.manager.prepare):
        with pytest.raises(InstanceError, match="expected directory, image"):
            prepare(request)


def test_a_later_start_opens_the_same_kind(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    assert prepared.record.rootfs_kind == "directory"
    shutil.rmtree(world.rootfs)
    write_tar(Path(world.rootfs))
    with pytest.raises(ReplacedError):
        world.manager.prepare_again("web1")
    with pytest.raises(RootfsError, match="is no directory"):
        world.manager.prepare_again("web1", accept_replaced=True)


def test_a_record_of_before_kinds_were_noted(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    world.services.store.save(replace(prepared.record, rootfs_kind=None))
    world.guests.add("web1")
    assert world.manager.prepare(world.request) == prepared


def test_the_limit_of_processes(world: World) -> None:
    assert world.manager.prepare(world.request).record.max_processes == 4096
    world.set(max_processes=77)
    assert world.manager.prepare(world.request).record.max_processes == 77
    # It runs, and stays with what it was promised.
    world.guests.add("web1")
    world.set(max_processes=99)
    assert world.manager.prepare(world.request).record.max_processes == 77
    asked = replace(world.request, name="web2", max_processes=5)
    other = replace(asked, uuid=str(uuid.uuid4()), rootfs=world.rootfs)
    assert world.manager.plan(other).record.max_processes == 5
    with pytest.raises(InstanceError, match="expected 0 to 4194304"):
        world.manager.plan(replace(other, max_processes=-1))


def test_maps_of_the_request_come_first(world: World) -> None:
    request = replace(world.request, id_maps=OTHER)
    assert world.manager.prepare(request).id_maps == OTHER


def test_without_maps_the_feature_is_off(world: World) -> None:
    world.set(uid_maps=[], gid_maps=[])
    prepared = world.manager.prepare(world.request)
    assert (prepared.mode, prepared.id_maps) == ("host", None)
    assert prepared.mode_reasons == (
        "user namespaces are off: neither ID maps are configured nor a pool",
    )
    assert prepared.needs_private_network
    assert world.log == ["leave", "mount"]


def test_host_mode_for_want_of_maps_is_a_warning_each_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.set(uid_maps=[], gid_maps=[])
    for _ in range(2):
        caplog.clear()
        world.manager.prepare(world.request)
        warned = [
            each.getMessage()
            for each in caplog.records
            if each.levelname == "WARNING"
        ]
        assert warned == [
            "web1: runs in the host's user namespace, and its root is the "
            "host's: user namespaces are off: neither ID maps are configured "
            "nor a pool"
        ]
    world.guests.add("web1")
    caplog.clear()
    world.manager.prepare(world.request)
    assert "its root is the host's" in caplog.text


def test_required_by_somebody_and_nothing_configured(world: World) -> None:
    world.set(uid_maps=[], gid_maps=[])
    prepared = world.manager.prepare(world.request)
    assert prepared.mode == "host"
    world.set(userns_policy="required")
    manager = world.manager
    for verb in (manager.plan, manager.reserve, manager.prepare):
        with pytest.raises(ConfigError, match="required: neither"):
            verb(world.request)
    with pytest.raises(ConfigError, match="required: neither"):
        manager.prepare_again("web1")
    # A request that brings maps asks for nothing that there is not.
    other = replace(world.request, name="web2", id_maps=OTHER)
    assert manager.plan(other).mode == "private"


def test_a_misspelt_name_stops_every_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set(uid_maps=[], gid_maps=[])
    world.manager.prepare(world.request)
    monkeypatch.setenv("OS_LIBVIRT__UID_MAP", str(ID_MAP))
    manager = world.manager
    for verb in (manager.plan, manager.reserve, manager.prepare):
        with pytest.raises(ConfigError, match="write OS_LIBVIRT__UID_MAPS"):
            verb(replace(world.request, id_maps=MAPS))
    with pytest.raises(ConfigError, match="write OS_LIBVIRT__UID_MAPS"):
        manager.prepare_again("web1")


def test_the_record_is_there_before_the_first_change(world: World) -> None:
    seen = []
    world.strategy.prepare_tree = lambda *_: seen.append(  # type: ignore[method-assign]
        world.services.store.load("web1")
    )
    prepared = world.manager.prepare(world.request)
    # Not ready, so that a crash here makes the next one look again.
    assert seen == [replace(prepared.record, ready=None)]
    assert prepared.record.ready == os.stat(world.request.rootfs).st_ino


def test_a_tree_is_believed_only_when_we_made_it_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def prepare_tree(
        _tree: RootfsSource,
        _id_maps: IdMaps | None,
        options: strategies.ShiftOptions,
    ) -> None:
        seen.append(options.recheck)

    monkeypatch.setattr(world.strategy, "prepare_tree", prepare_tree)
    first = world.manager.prepare(world.request)
    assert world.manager.prepare(world.request) == first
    world.manager.release("web1")
    world.manager.prepare(world.request)
    assert seen == [True, False, True]
    # Another directory in its place.
    rootfs = Path(world.request.rootfs)
    rootfs.rename(rootfs.with_name("old"))
    rootfs.mkdir()
    with pytest.raises(ReplacedError, match="another file or directory"):
        world.manager.prepare(world.request)
    assert seen == [True, False, True]
    world.manager.prepare(world.request, accept_replaced=True)
    assert seen == [True, False, True, True]
    world.manager.prepare(world.request)
    assert seen == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("step", "undone"),
    [("shift", ["shift"]), ("mount", ["shift", "mount", "unmount"])],
)
def test_a_failed_prepare_is_undone(
    world: World, step: str, undone: list[str]
) -> None:
    world.strategy.fail_at = step
    with pytest.raises(RootfsError, match=f"{step} failed"):
        world.manager.prepare(world.request)
    assert world.log == undone
    assert world.services.store.load("web1") is None


def test_a_failed_second_prepare_keeps_the_record(world: World) -> None:
    first = world.manager.prepare(world.request)
    world.strategy.fail_at = "mount"
    with pytest.raises(RootfsError, match="mount failed"):
        world.manager.prepare(world.request)
    assert world.services.store.load("web1") == first.record


def test_an_error_while_undoing_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, _instance: str) -> None:
        raise RootfsError("/view", "is busy")

    monkeypatch.setattr(FakeViews, "unmount", fail)
    world.strategy.fail_at = "mount"
    with pytest.raises(RootfsError, match="mount failed") as raised:
        world.manager.prepare(world.request)
    assert raised.value.__notes__ == [
        "while undoing what was done: /view: is busy"
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subid_owner": "lxc"}, "subid_owner = lxc: is set beside"),
        (
            {"subid_owner": "lxc", "uid_maps": [], "gid_maps": []},
            "subid_owner = lxc: lxc has no subordinate user IDs in /etc/su",
        ),
        ({"uid_maps": []}, "uid_maps: is empty, but gid_maps is set"),
        ({"uid_maps": ["0:1"]}, "uid_maps = 0:1: expected"),
        ({"state_path": "state"}, "state_path = state: an absolute path"),
    ],
)
def test_configurations_that_stop_it(
    world: World, values: dict[str, Any], message: str
) -> None:
    world.set(**values)
    with pytest.raises(ConfigError, match=message):
        world.manager.prepare(world.request)
    assert world.log == []


@pytest.mark.parametrize("name", ["state_path", "run_path"])
@pytest.mark.parametrize("where", ["{0}/x/y", "{0}", "{1}"])
def test_a_tree_that_holds_our_own_directories(
    world: World, tmp_path: Path, name: str, where: str
) -> None:
    Path(world.rootfs).chmod(0o700)
    world.set(**{name: where.format(world.rootfs, tmp_path)})
    with pytest.raises(RootfsError, match=rf"\[lxc_userns\] {name}"):
        world.manager.prepare(world.request)


def test_a_running_instance_as_promised_is_left_alone(world: World) -> None:
    first = world.manager.prepare(world.request)
    world.guests.add("web1")
    world.log.clear()
    assert world.manager.prepare(world.request) == first
    assert world.log == []
    world.strategy.mounted.clear()
    with pytest.raises(InstanceError, match=r"its view .* is not mounted"):
        world.manager.prepare(world.request)


def test_a_running_instance_is_not_changed(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    with pytest.raises(InstanceError, match="web1: is running; stop it"):
        world.manager.prepare(replace(world.request, id_maps=OTHER))
    for change in (world.manager.release, world.manager.detach):
        with pytest.raises(InstanceError, match="web1: is running; stop it"):
            change("web1")
    assert world.strategy.mounted == {"web1"}


def test_a_running_domain_without_a_record_is_not_prepared(
    world: World,
) -> None:
    world.guests.add("web1")
    with pytest.raises(InstanceError, match="web1: is running; stop it"):
        world.manager.prepare(world.request)


def test_a_name_is_not_taken_over(world: World) -> None:
    world.manager.prepare(world.request)
    other = replace(world.request, uuid=UUID.replace("0", "1"))
    with pytest.raises(InstanceError, match=f"taken by the instance {UUID}"):
        world.manager.prepare(other)


def test_a_promise_is_not_weakened(world: World) -> None:
    world.manager.prepare(world.request)
    world.set(uid_maps=[], gid_maps=[])
    with pytest.raises(InstanceError, match="to be in the host's user"):
        world.manager.prepare(world.request)
    world.manager.release("web1")
    assert world.manager.prepare(world.request).mode == "host"


@pytest.mark.parametrize("path", ["", "/sbin", "/.."])
def test_a_tree_in_use_is_not_shifted_for_other_maps(
    world: World, path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world.set(state_path="/nonexistent/s", run_path="/nonexistent/r")
    world.set(state_path=str(tmp_path_factory.mktemp("beside") / "state"))
    world.manager.prepare(world.request)
    second = InstanceRequest("web2", UUID, world.rootfs + path, OTHER)
    in_use = "is in use by the instance web1; stop that one first"
    with pytest.raises(RootfsError, match=in_use):
        world.manager.prepare(second)
    with (
        pytest.raises(RootfsError, match=in_use),
        shift_by_hand.reserved(world.services, second.rootfs, None),
    ):
        pytest.fail("must not get here")
    assert world.services.store.load("web2") is None
    # Unmounted by hand, it runs on.
    world.strategy.mounted.clear()
    world.guests.add("web1")
    with pytest.raises(RootfsError, match=in_use):
        world.manager.prepare(second)
    world.guests.add("web1", active=False)
    with shift_by_hand.reserved(world.services, second.rootfs, OTHER):
        pass
    assert world.manager.prepare(second).id_maps == OTHER


def test_a_tree_is_shared_with_the_same_maps(world: World) -> None:
    world.manager.prepare(world.request)
    second = InstanceRequest("web2", UUID, world.rootfs)
    assert world.manager.prepare(second).id_maps == MAPS
    with shift_by_hand.reserved(world.services, world.rootfs, MAPS):
        pass


def test_release_can_be_repeated(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    world.manager.release(prepared)
    assert world.services.store.load("web1") is None
    world.manager.release("web1")
    assert world.strategy.mounted == set()


def test_a_failed_release_keeps_the_record(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    world.strategy.fail_at = "unmount"
    with pytest.raises(RootfsError, match="unmount failed"):
        world.manager.release("web1")
    assert world.services.store.load("web1") == prepared.record


def test_verify(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    world.guests.add("web1")
    for instance in ("web1", prepared):
        found = world.manager.verify(instance, started=False)
        assert (found.name, found.pid) == ("web1", 4242)
        assert (found.uid_map, found.gid_map) == (str(ID_MAP), str(ID_MAP))
    assert "destroy" not in world.log


def test_what_is_not_as_promised_is_destroyed(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.guests.init.uid_map = ((0, 0, 4294967295),)
    world.guests.init.gid_map = ()
    with pytest.raises(
        IsolationError,
        match=r"uid_map is 0:0:4294967295, promised was 0:100000:65536; its "
        r"gid_map is empty, promised was 0:100000:65536; .*; it was destroyed",
    ):
        world.manager.verify("web1", started=False)
    assert world.log[-1] == "destroy"


UNLOOKED = [
    MemoryError(),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    ZeroDivisionError("a fault of ours"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    InstanceError("web1", "its first process is not found"),
]


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("place", ["observe", "mismatches", "revoke"])
@pytest.mark.parametrize("error", UNLOOKED, ids=repr)
def test_what_cannot_be_looked_at_later_runs_on(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    monkeypatch.setattr(verification, place, failing(error))
    with pytest.raises(InspectionError, match=r"cannot .* at: .* runs on"):
        world.manager.verify("web1", started=False)
    assert "destroy" not in world.log
    assert world.guests.domains["web1"].is_active
    assert world.services.store.load("web1").verified is None  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["observe", "mismatches", "revoke"])
@pytest.mark.parametrize("error", UNLOOKED, ids=repr)
def test_what_cannot_be_looked_at_just_after_its_start_is_destroyed(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    monkeypatch.setattr(verification, place, failing(error))
    with pytest.raises(IsolationError, match="; it was destroyed"):
        world.manager.verify("web1", started=True)
    assert world.log[-1] == "destroy"


@pytest.mark.parametrize("lost", [[], ["web1"]])
@pytest.mark.parametrize("started", [True, False])
def test_an_end_that_libvirt_has_missed_while_it_is_looked_at(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    started: bool,
    lost: list[str],
) -> None:
    """Whatever is left of it was never verified."""
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.guests.lost += lost
    monkeypatch.setattr(verification, "observe", failing(NotRunningError("x")))
    with pytest.raises(NotRunningError):
        world.manager.verify("web1", started=started)
    assert (world.log[-1] == "destroy") == started


@pytest.mark.parametrize("started", [True, False])
def test_an_interrupt_while_it_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    fail = failing(KeyboardInterrupt())
    monkeypatch.setattr(verification, "observe", fail)
    with pytest.raises(KeyboardInterrupt):
        world.manager.verify("web1", started=started)
    assert ("destroy" in world.log) == started


def test_a_container_makes_too_much_of_something(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot keep itself from being judged for ever."""
    world.manager.prepare(world.request)
    world.guests.add("web1")
    error = BoundExceededError("has more than 10 names in /dev")
    monkeypatch.setattr(verification, "observe", failing(error))
    with pytest.raises(IsolationError, match="names in /dev; it was destr"):
        world.manager.verify("web1", started=False)
    assert world.log[-1] == "destroy"


@pytest.mark.parametrize("started", [True, False])
def test_a_report_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    def report() -> VerifiedInstance:
        return world.manager.verify("web1", started=started, report_only=True)

    world.manager.prepare(world.request)
    with pytest.raises(NotRunningError):
        report()
    world.guests.add("web1")
    for name in ("enforce", "revoke"):
        of = resources if name == "enforce" else verification
        monkeypatch.setattr(of, name, failing(AssertionError(name)))
    world.log.clear()
    assert report().was_verified is False
    assert report().was_verified is False
    world.guests.init.uid_map = ()
    with pytest.raises(IsolationError, match="it was left as it is"):
        report()
    monkeypatch.setattr(verification, "observe", failing(OSError("no")))
    with pytest.raises(InspectionError, match="cannot be looked at: no"):
        report()
    assert world.log == []


def test_no_libvirtd_after_a_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said what was to be done and could not be."""
    world.manager.prepare(world.request)
    world.guests.add("web1")
    broken = failing(LibvirtUnreachableError("look up web1", "gone"))
    for name in ("find", "xml", "destroy"):
        monkeypatch.setattr(FakeGuests, name, broken)
    with pytest.raises(LibvirtUnreachableError) as raised:
        world.manager.verify("web1", started=True)
    assert "web1 is not as promised" in raised.value.__notes__[0]
    with pytest.raises(InspectionError, match="gone; it runs on"):
        world.manager.verify("web1", started=False)


def test_a_mismatch_is_told_even_if_it_cannot_be_destroyed(
    world: World,
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.guests.init.uid_map = ()
    world.guests.fail_at = "destroy"
    with pytest.raises(LibvirtError) as raised:
        world.manager.verify("web1", started=False)
    assert "web1 is not as promised: its uid_map" in raised.value.__notes__[0]


def test_verify_of_what_does_not_run(world: World) -> None:
    with pytest.raises(NoSuchContainerError, match="web1"):
        world.manager.verify("web1", started=False)
    world.manager.prepare(world.request)
    with pytest.raises(InstanceError, match="web1: is not running"):
        world.manager.verify("web1", started=False)
    # Somebody else's, of the same name.
    world.guests.add("web1", uuid=UUID.replace("0", "1"))
    world.guests.init.uid_map = ()
    with pytest.raises(InstanceError, match="web1: is not running"):
        world.manager.verify("web1", started=False)
    assert "destroy" not in world.log


def run(world: World) -> None:
    world.containers.run(ContainerSpec("web1", world.rootfs))


def test_an_end_that_libvirt_has_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end that was noted counts once its process in libvirt is gone."""
    run(world)
    end = Trace(ended=True, status=0)
    monkeypatch.setattr(FakeTraces, "read", lambda *_: end)
    assert world.containers.show("web1").trace == Trace(status=0)

    def gone(_controller: int) -> list[str]:
        raise ProcessLookupError

    monkeypatch.setattr(memory, "find_files", gone)
    assert world.containers.show("web1").trace == end


def test_run_takes_its_steps_in_order(world: World) -> None:
    run(world)
    assert world.log == ["shift", "mount", "define", "start", "limit"]
    (container,) = world.containers.list()
    assert container == world.containers.show("web1")
    assert (container.state, container.init_pid) == ("running", 4242)
    with pytest.raises(ContainerExistsError, match="the name is taken"):
        run(world)


def test_run_confines_where_libvirtd_can(world: World) -> None:
    world.guests.capabilities_xml = (
        "<capabilities><host><secmodel><model>apparmor</model></secmodel>"
        "</host></capabilities>"
    )
    # The kernel does not have it so.
    with pytest.raises(IsolationError, match="its domain has no label of"):
        run(world)
    label = "<seclabel type='dynamic' model='apparmor' relabel='yes'/>"
    assert label.replace("'", '"') in world.guests.defined
    world.set(seclabel="none")
    run(world)
    assert "seclabel" not in world.guests.defined


@pytest.mark.parametrize(
    ("step", "undone"),
    [
        ("shift", []),
        ("mount", ["unmount"]),
        ("define", ["unmount"]),
        ("start", ["destroy", "undefine", "unmount"]),
    ],
)
def test_a_failed_run_is_undone(
    world: World, step: str, undone: list[str]
) -> None:
    world.guests.fail_at = world.strategy.fail_at = step
    with pytest.raises((LibvirtError, RootfsError)):
        run(world)
    assert world.log[world.log.index(step) + 1 :] == undone
    assert world.containers.list() == []
    assert world.guests.domains == {}


def test_run_needs_maps(world: World) -> None:
    world.set(uid_maps=[], gid_maps=[])
    with pytest.raises(ConfigError, match="uid_maps, gid_maps: are empty"):
        run(world)
    assert world.log == []


def test_run_shifts_nothing_that_has_no_init(world: World) -> None:
    spec = ContainerSpec("web1", world.rootfs, ("/sbin/absent",))
    with pytest.raises(RootfsError, match="has no /sbin/absent"):
        world.containers.run(spec)
    assert world.log == []


@pytest.mark.parametrize("absent", ["br1", ""])
def test_bridges_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    """libvirt leaves the devices behind that it cannot attach."""
    libvirt = Daemon("libvirtd", 4711, ())
    monkeypatch.setattr("lxc_userns.libvirtd.daemon.find", lambda: libvirt)
    devices = frozenset({"lo", "br0", "br1"} - {absent})
    monkeypatch.setattr(Daemon, "network_devices", devices)
    spec = ContainerSpec(
        "web1",
        world.rootfs,
        interfaces=(Interface.bridge("br0"), Interface.bridge("br1")),
    )
    if not absent:
        world.containers.run(spec)
        return
    with pytest.raises(InstanceError, match="web1: there is no bridge br1 "):
        world.containers.run(spec)
    assert world.log == []


def test_a_bridge_is_gone_at_a_later_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world)
    world.containers.stop("web1")
    libvirt = Daemon("libvirtd", 4711, ())
    monkeypatch.setattr("lxc_userns.libvirtd.daemon.find", lambda: libvirt)
    monkeypatch.setattr(Daemon, "network_devices", frozenset({"lo"}))
    xml = (
        "<domain type='lxc'><os><type>exe</type></os><devices>"
        "<interface type='bridge'>"
        "<source bridge='br0'/></interface></devices></domain>"
    )
    monkeypatch.setattr(world.guests, "xml", lambda _name: xml)
    world.log.clear()
    with pytest.raises(InstanceError, match="web1: there is no bridge br0 "):
        world.containers.start("web1")
    assert world.log == []


def test_one_whose_end_libvirt_has_missed_is_started(world: World) -> None:
    run(world)
    world.log.clear()
    world.guests.lost.append("web1")
    world.containers.start("web1")
    assert world.log == ["destroy", "shift", "mount", "start", "limit"]


def test_one_whose_end_libvirt_has_missed_counts_as_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world)

    def gone(_name: str) -> None:
        raise NotRunningError("web1")

    monkeypatch.setattr(world.guests, "init_process", gone)
    monkeypatch.setattr(Guest, "is_lost", True)
    world.guests.lost.append("web1")
    assert world.containers.show("web1").state == "stopped"
    # It is mounted anew, for a start.
    world.log.clear()
    world.manager.prepare_again("web1")
    assert world.log == ["shift", "mount"]
    with pytest.raises(NotRunningError):
        world.manager.verify("web1", started=False)


def test_stop_start_destroy(world: World) -> None:
    run(world)
    world.containers.stop("web1")
    assert world.strategy.mounted == set()
    assert world.containers.show("web1").state == "stopped"
    world.log.clear()
    world.containers.start("web1")
    assert world.log == ["shift", "mount", "start", "limit"]
    with pytest.raises(InstanceError, match="is running already"):
        world.containers.start("web1")
    world.containers.destroy("web1")
    assert world.containers.list() == []
    assert world.guests.domains == {}
    for operation in (world.containers.start, world.containers.stop):
        with pytest.raises(NoSuchContainerError):
            operation("web1")


def test_start_keeps_the_promise_of_its_record(world: World) -> None:
    run(world)
    world.containers.stop("web1")
    world.set(uid_maps=[str(OTHER.uid)], gid_maps=[str(OTHER.gid)])
    world.containers.start("web1")
    assert world.containers.show("web1").id_maps == MAPS


def test_a_failed_start_is_undone(world: World) -> None:
    run(world)
    world.containers.stop("web1")
    world.guests.fail_at = "start"
    with pytest.raises(LibvirtError):
        world.containers.start("web1")
    assert world.strategy.mounted == set()
    assert world.containers.show("web1").state == "stopped"


def test_a_container_that_ends_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeGuests, "start", FakeGuests._step)
    with pytest.raises(
        InstanceError,
        match=r"at once: exit code 3; it printed: hello; .*/lxc/web1\.log",
    ):
        run(world)
    assert world.containers.list() == []


def test_a_start_that_was_not_verified(world: World) -> None:
    run(world)
    world.containers.stop("web1")
    world.manager.prepare_again("web1")
    world.guests.add("web1", uuid=world.containers.show("web1").uuid)
    (container,) = world.containers.list()
    assert (container.state, container.init_pid) == ("unverified", 4242)
    world.log.clear()
    assert world.containers.start("web1").was_verified is False
    assert world.log == ["limit"]
    assert world.containers.show("web1").state == "running"
    assert world.manager.verify("web1", started=False).was_verified is True
    # It has rebooted itself; also if the new one has the old one's number.
    world.guests.init.start_time += 1
    assert world.containers.show("web1").state == "unverified"
    with pytest.raises(ContainerExistsError, match="the name is taken"):
        run(world)
    assert world.containers.show("web1").state == "running"


def test_a_start_that_was_not_verified_and_cannot_be(world: World) -> None:
    run(world)
    world.guests.init.start_time += 1
    world.guests.init.uid_map = ()
    world.log.clear()
    with pytest.raises(IsolationError, match="it was destroyed"):
        world.containers.start("web1")
    assert world.log == ["destroy", "unmount"]
    assert world.containers.show("web1").state == "stopped"


def test_a_reboot_that_cannot_be_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was verified when it was started, and runs on."""
    run(world)
    world.guests.init.start_time += 1
    world.log.clear()
    monkeypatch.setattr(verification, "observe", failing(OSError("EIO")))
    with pytest.raises(InspectionError):
        world.containers.start("web1")
    assert world.log == []
    assert world.containers.show("web1").state == "unverified"


def test_who_was_never_verified_is_just_started(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world)
    world.containers.stop("web1")
    world.manager.prepare_again("web1")
    world.guests.add("web1", uuid=world.containers.show("web1").uuid)
    monkeypatch.setattr(verification, "observe", failing(OSError("EIO")))
    with pytest.raises(InspectionError):
        world.containers.verify("web1", report_only=True)
    with pytest.raises(IsolationError, match="EIO; it was destroyed"):
        world.containers.verify("web1")


def test_a_start_in_another_boot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world)
    monkeypatch.setattr(verified, "read_boot_id", lambda: "another")
    assert world.containers.show("web1").state == "unverified"


def test_what_was_released_meanwhile_gets_no_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    release = world.services.store.remove
    monkeypatch.setattr(ucounts, "apply", lambda _init: release("web1"))
    assert world.manager.verify("web1", started=False).was_verified is False
    assert world.services.store.load("web1") is None


def test_incomplete_containers(world: World) -> None:
    world.manager.prepare(world.request)
    assert world.containers.show("web1").state == "incomplete"
    with pytest.raises(InstanceError, match="is incomplete; destroy it"):
        world.containers.start("web1")
    world.containers.destroy("web1")
    assert world.containers.list() == []


def test_prepared_instances_compare_by_value(world: World) -> None:
    plan = world.manager.plan(world.request)
    assert plan == PreparedInstance(plan.record)
    assert world.log == []


POOL = "lxc:2000000000:131072\n"


@pytest.fixture
def pool(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which each instance has a lease, and two can."""
    monkeypatch.setattr(running, "in_other_user_namespaces", lambda: iter(()))
    for kind in ("user", "group"):
        found = IdOwnership(kind, {}, *parse(POOL), source="/etc/x")
        name = f"read_host_{kind[0]}ids"
        monkeypatch.setattr(owners, name, lambda _owner, found=found: found)
    world.set(uid_maps=[], gid_maps=[], subid_owner="lxc")
    return world


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


def test_each_instance_has_a_lease(pool: World) -> None:
    request = another(pool, "db")
    assert pool.manager.prepare(pool.request).id_maps == leased(0)
    assert pool.manager.prepare(request).id_maps == leased(1)
    # Again, and after a restart of the service.
    assert pool.manager.prepare(pool.request).id_maps == leased(0)
    assert pool.manager.prepare_again("web1").id_maps == leased(0)
    lease = lease_of(pool, "web1")
    assert lease is not None
    assert lease.uuid == UUID
    third = another(pool, "no")
    with pytest.raises(PoolExhaustedError, match="no: no range of 65536"):
        pool.manager.prepare(third)
    assert pool.services.store.load("no") is None
    pool.manager.release("db")
    pool.manager.release("db")
    assert lease_of(pool, "db") is None
    assert pool.manager.prepare(third).id_maps == leased(1)


def test_a_plan_leases_nothing(pool: World) -> None:
    plan = pool.manager.plan(pool.request)
    assert (plan.id_maps, plan.mode) == (leased(0), "private")
    assert plan.record.strategy == "chown"
    assert not pool.services.allocator.leases.exists


@pytest.mark.parametrize("step", ["shift", "mount"])
def test_a_failed_prepare_gives_its_lease_back(pool: World, step: str) -> None:
    pool.strategy.fail_at = step
    with pytest.raises(RootfsError, match=f"{step} failed"):
        pool.manager.prepare(pool.request)
    assert lease_of(pool, "web1") is None


def test_a_failed_prepare_keeps_a_lease_that_was_there(pool: World) -> None:
    lease = pool.services.allocator.acquire("web1")
    pool.strategy.fail_at = "shift"
    with pytest.raises(RootfsError, match="shift failed"):
        pool.manager.prepare(pool.request)
    # And not that of this UUID, for the next one has another.
    assert lease_of(pool, "web1") == lease


def test_a_bad_request_leases_nothing(pool: World) -> None:
    wrong: dict[str, Any] = {
        "rootfs": "/nonexistent",
        "strategy": "copy",
        "uuid": "x",
    }
    for name, value in wrong.items():
        with pytest.raises(LxcUsernsError):
            pool.manager.prepare(replace(pool.request, **{name: value}))
    assert not pool.services.allocator.leases.exists


def test_a_lease_of_another_size(pool: World) -> None:
    request = replace(pool.request, range_size=131072)
    prepared = pool.manager.prepare(request)
    assert str(cast(IdMaps, prepared.id_maps).uid) == "0:2000000000:131072"
    # It keeps it, and whoever asks for no size gets that one.
    assert pool.manager.prepare(pool.request).id_maps == prepared.id_maps
    with pytest.raises(LeaseError, match="131072 IDs, not of 65536"):
        pool.manager.prepare(replace(pool.request, range_size=65536))


def test_a_size_without_a_pool(world: World) -> None:
    for request in (
        replace(world.request, range_size=65536),
        replace(world.request, range_size=65536, id_maps=OTHER),
    ):
        with pytest.raises(InstanceError, match="has ID maps or no pool"):
            world.manager.prepare(request)


def test_maps_of_a_request_beside_leases(pool: World) -> None:
    pool.manager.prepare(pool.request)
    request = another(pool, "db")
    with pytest.raises(LeaseError, match="leased to the instance web1"):
        pool.manager.prepare(replace(request, id_maps=leased(0)))
    assert pool.services.store.load("db") is None
    fixed = replace(request, id_maps=leased(1))
    assert pool.manager.prepare(fixed).id_maps == leased(1)
    assert lease_of(pool, "db") is None
    third = another(pool, "c")
    with pytest.raises(PoolExhaustedError, match="held by the instance db"):
        pool.manager.prepare(third)
    pool.manager.release("db")
    assert pool.manager.prepare(third).id_maps == leased(1)


def test_from_maps_for_all_to_leases(pool: World) -> None:
    """A deployer changes the configuration below a stopped instance."""
    maps = "0:2000000000:65536"
    pool.set(subid_owner="", uid_maps=[maps], gid_maps=[maps])
    pool.set(held_ids="allow")  # They are another owner's, without a pool.
    assert pool.manager.prepare(pool.request).id_maps == leased(0)
    pool.set(held_ids="refuse")
    assert not pool.services.allocator.leases.exists
    pool.set(subid_owner="lxc", uid_maps=[], gid_maps=[])
    request = another(pool, "db")
    assert pool.manager.prepare(request).id_maps == leased(1)
    # As it was promised, whatever is configured.
    assert pool.manager.prepare_again("web1").id_maps == leased(0)
    assert lease_of(pool, "web1") is None
    assert pool.manager.prepare(pool.request).id_maps == leased(0)
    assert lease_of(pool, "web1") is not None


def test_containers_have_leases(pool: World) -> None:
    pool.guests.init = FakeInit(
        uid_map=((0, 2_000_000_000, 65536),),
        gid_map=((0, 2_000_000_000, 65536),),
    )
    spec = ContainerSpec("web1", pool.rootfs)
    pool.containers.run(spec)
    pool.containers.stop("web1")
    lease = lease_of(pool, "web1")
    assert lease is not None
    assert lease.uuid == pool.guests.domains["web1"].uuid
    pool.containers.start("web1")
    assert lease_of(pool, "web1") == lease
    pool.containers.destroy("web1")
    assert lease_of(pool, "web1") is None
    # Another container of the same name is not the same instance.
    pool.services.allocator.acquire("web1", UUID)
    with pytest.raises(LeaseError, match=f"the instance {UUID} has the lease"):
        pool.containers.run(spec)


def test_a_failed_run_keeps_a_lease_that_was_there(pool: World) -> None:
    spec = ContainerSpec("web1", pool.rootfs)
    lease = pool.services.allocator.acquire("web1")
    pool.guests.fail_at = "start"
    with pytest.raises(LibvirtError):
        pool.containers.run(spec)
    assert lease_of(pool, "web1") == lease
    assert pool.services.store.load("web1") is None
    pool.manager.release("web1")
    with pytest.raises(LibvirtError):
        pool.containers.run(spec)
    assert lease_of(pool, "web1") is None


def test_a_refused_instance_takes_nothing_from_the_one_that_is(
    pool: World,
) -> None:
    """Neither its lease, nor what it has without one."""
    other = another_uuid("other")
    lease = pool.manager.prepare(pool.request).id_maps
    with pytest.raises(InstanceError, match="the name is taken"):
        pool.manager.prepare(replace(pool.request, uuid=other))
    held = lease_of(pool, "web1")
    assert held is not None
    assert (held.id_maps, held.uuid) == (lease, UUID)
    fixed = replace(another(pool, "fixed"), id_maps=leased(1))
    pool.manager.prepare(fixed)
    with pytest.raises(InstanceError, match="the name is taken"):
        pool.manager.prepare(replace(fixed, uuid=other))
    with pytest.raises(PoolExhaustedError, match="held by the instance fixed"):
        pool.manager.prepare(another(pool, "third"))


def test_a_database_that_was_lost(pool: World) -> None:
    """An instance has again what it had, also while it runs."""
    pool.manager.prepare(another(pool, "first"))
    prepared = pool.manager.prepare(pool.request)
    assert prepared.id_maps == leased(1)
    pool.guests.add("web1")
    for file in Path(pool.rootfs).with_name("state").glob("leases*"):
        file.unlink()
    assert pool.manager.prepare(pool.request) == prepared
    held = lease_of(pool, "web1")
    assert held is not None
    assert held.id_maps == leased(1)
    with pytest.raises(PoolExhaustedError, match="held by the instance first"):
        pool.services.allocator.acquire("a")


def test_options_that_only_leases_need(pool: World) -> None:
    pool.manager.prepare(pool.request)
    pool.set(subid_owner="a b")
    with pytest.raises(ConfigError, match="the name or the number"):
        pool.manager.prepare(pool.request)
    pool.manager.release("web1")
    assert lease_of(pool, "web1") is None


def test_an_orphan_is_collected_whole(pool: World) -> None:
    pool.manager.prepare(pool.request)
    pool.log.clear()
    (orphan,) = gc.collect_garbage(pool.services, 0)
    assert orphan.outcome == "returned"
    assert pool.log == ["unmount"]
    assert pool.services.store.load("web1") is None
    assert lease_of(pool, "web1") is None


def test_what_cannot_be_limited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    error = OSError("sh: cannot create /proc/sys/user/x")
    monkeypatch.setattr(ucounts, "apply", failing(error))
    with pytest.raises(InspectionError, match="cannot create"):
        world.manager.verify("web1", started=False)
    assert "destroy" not in world.log
    with pytest.raises(IsolationError, match=r"cannot create .*destroyed"):
        world.manager.verify("web1", started=True)
    assert world.log[-1] == "destroy"


def test_only_what_is_as_promised_is_limited(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.manager.verify("web1", started=False)
    assert world.log[-1] == "limit"
    world.log.clear()
    world.guests.init = FakeInit(uid_map=((0, 7, 65536),))
    with pytest.raises(IsolationError):
        world.manager.verify("web1", started=False)
    assert world.log == ["destroy"]
    # In the host's user namespace it would be the host that is limited.
    world.set(uid_maps=[], gid_maps=[])
    world.manager.prepare(another(world, "plain"))
    world.guests.add("plain", uuid=another_uuid("plain"))
    world.log.clear()
    world.manager.verify("plain", started=False)
    assert world.log == []


def test_what_is_reserved_is_what_is_prepared(world: World) -> None:
    reserved = world.manager.reserve(replace(world.request, rootfs="/no/such"))
    assert (reserved.mode, reserved.id_maps) == ("private", MAPS)
    # Nothing is mounted or promised yet.
    assert world.log == []
    assert world.services.store.load("web1") is None
    prepared = world.manager.prepare(world.request)
    assert prepared.id_maps == reserved.id_maps
    assert prepared.root == reserved.root
    with pytest.raises(PolicyError):
        world.manager.reserve(
            replace(world.request, needs=Requirements("host"))
        )


def test_a_lease_that_is_reserved(pool: World) -> None:
    reserved = pool.manager.reserve(pool.request)
    assert lease_of(pool, "web1") is not None
    assert pool.manager.reserve(pool.request).id_maps == reserved.id_maps
    assert pool.manager.prepare(pool.request).id_maps == reserved.id_maps
    pool.manager.release("web1")
    assert lease_of(pool, "web1") is None
    # Taken back without ever being prepared.
    pool.manager.reserve(pool.request)
    pool.manager.release("web1")
    assert lease_of(pool, "web1") is None
