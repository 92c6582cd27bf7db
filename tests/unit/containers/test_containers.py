# SPDX-License-Identifier: Apache-2.0
"""Whole containers: run, started, stopped and destroyed."""

import signal
from dataclasses import astuple

import pytest

from lxc_userns.containers import ContainerSpec
from lxc_userns.containers.logs import Logs
from lxc_userns.domain import Interface
from lxc_userns.exceptions import (
    ConfigError,
    ContainerExistsError,
    InspectionError,
    InstanceError,
    IsolationError,
    LibvirtError,
    NoSuchContainerError,
    NotRunningError,
    RootfsError,
)
from lxc_userns.traces.trace import Trace
from tests.unit.manager.world import (
    MAPS,
    OTHER,
    FakeDaemon,
    LostGuest,
    World,
    failing,
    run,
)

ENDED = Trace(ended=True, status=3 << 8, console=("hello",))
AT_ONCE = r"at once: exit code 3; it printed: hello; .*/lxc/web1\.log"


def test_an_end_that_libvirt_has_lost(world: World) -> None:
    """The end that was noted counts once its process in libvirt is gone."""
    run(world)
    end = Trace(ended=True, status=0)
    world.traces.last = end
    assert world.containers.show("web1").trace == Trace(status=0)

    def gone(_controller: int) -> int:
        raise ProcessLookupError

    world.reach(read_kills=gone)
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
def test_bridges_are_there(world: World, absent: str) -> None:
    """libvirt leaves the devices behind that it cannot attach."""
    devices = frozenset({"lo", "br0", "br1"} - {absent})
    world.reach(find_daemon=lambda: FakeDaemon(devices))
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
    world.reach(find_daemon=lambda: FakeDaemon(frozenset({"lo"})))
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
    guest = world.guests.domains["web1"]
    world.guests.domains["web1"] = LostGuest(*astuple(guest))
    world.guests.lost.append("web1")
    assert world.containers.show("web1").state == "stopped"
    # It is mounted anew, for a start.
    world.log.clear()
    world.manager.prepare("web1")
    assert world.log == ["shift", "mount"]
    with pytest.raises(NotRunningError):
        world.manager.verify("web1", started=False)


def test_whose_end_libvirt_has_missed_is_not_followed_on(
    world: World,
) -> None:
    run(world)
    world.reach(find_daemon=lambda: None)
    guest = world.guests.domains["web1"]
    world.guests.domains["web1"] = LostGuest(*astuple(guest))
    assert [*Logs(world.services, "web1").follow()] == []


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
    world.traces.next = ENDED
    monkeypatch.setattr(world.guests, "start", world.guests._step)
    with pytest.raises(InstanceError, match=AT_ONCE):
        run(world)
    assert world.containers.list() == []


def test_a_container_that_ends_before_the_hook_sees_it(world: World) -> None:
    """libvirt tells no more than that its hook has failed."""
    world.traces.next = ENDED
    world.guests.fail_at = "start"
    with pytest.raises(InstanceError, match=AT_ONCE):
        run(world)
    # One that verification has ended is not told as that.
    world.traces.next = Trace(ended=True, status=signal.SIGKILL)
    with pytest.raises(LibvirtError):
        run(world)


def test_a_start_that_was_not_verified(world: World) -> None:
    run(world)
    world.containers.stop("web1")
    world.manager.prepare("web1")
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


def test_a_reboot_that_cannot_be_looked_at(world: World) -> None:
    """It was verified when it was started, and runs on."""
    run(world)
    world.guests.init.start_time += 1
    world.log.clear()
    world.inspect(observe=failing(OSError("EIO")))
    with pytest.raises(InspectionError):
        world.containers.start("web1")
    assert world.log == []
    assert world.containers.show("web1").state == "unverified"


def test_who_was_never_verified_is_just_started(world: World) -> None:
    run(world)
    world.containers.stop("web1")
    world.manager.prepare("web1")
    world.guests.add("web1", uuid=world.containers.show("web1").uuid)
    world.inspect(observe=failing(OSError("EIO")))
    with pytest.raises(InspectionError):
        world.containers.verify("web1", report_only=True)
    with pytest.raises(IsolationError, match="EIO; it was destroyed"):
        world.containers.verify("web1")


def test_incomplete_containers(world: World) -> None:
    world.manager.prepare(world.request)
    assert world.containers.show("web1").state == "incomplete"
    with pytest.raises(InstanceError, match="is incomplete; destroy it"):
        world.containers.start("web1")
    world.containers.destroy("web1")
    assert world.containers.list() == []


def test_restart_takes_its_steps_in_order(world: World) -> None:
    run(world)
    world.log.clear()
    world.containers.restart("web1", timeout=0)
    steps = [each for each in world.log if each != "limit"]
    stop = ["stop", "destroy", "unmount"]
    assert steps == [*stop, "shift", "mount", "start"]
    # One that does not run is started.
    world.containers.stop("web1")
    world.containers.restart("web1")
    assert world.containers.show("web1").state == "running"


def test_one_that_may_not_start_again_is_not_stopped(world: World) -> None:
    run(world)
    world.log.clear()
    world.set(uid_maps=["0:0:65536"])
    with pytest.raises(ConfigError, match="uid_maps"):
        world.containers.restart("web1")
    assert world.log == []


def test_one_is_destroyed_once_the_next_is_looked_at(world: World) -> None:
    run(world)
    world.log.clear()
    with pytest.raises(RootfsError):
        world.containers.run(ContainerSpec("web1", "/absent"), replace=True)
    assert world.log == []
    spec = ContainerSpec("web1", world.rootfs)
    world.containers.run(spec, replace=True)
    steps = [each for each in world.log if each != "limit"]
    gone = ["destroy", "undefine", "unmount"]
    assert steps == [*gone, "shift", "mount", "define", "start"]


@pytest.mark.parametrize(
    ("networks", "reason"),
    [
        ({"default": True}, None),
        ({"default": False}, "is not active; start it: virsh -c lxc:/// "),
        ({"other": True}, "is not there; define it: virsh -c lxc:/// "),
        (None, "has no network default: libvirt: list networks: no driver; "),
    ],
)
def test_networks_of_libvirt_are_there(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    networks: dict[str, bool] | None,
    reason: str | None,
) -> None:
    def find() -> dict[str, bool]:
        if networks is None:
            raise LibvirtError("list networks", "no driver")
        return networks

    monkeypatch.setattr(world.guests, "networks", find, raising=False)
    spec = ContainerSpec(
        "web1", world.rootfs, interfaces=(Interface.network("default"),)
    )
    if reason is None:
        world.containers.run(spec)
        return
    with pytest.raises(InstanceError, match=reason):
        world.containers.run(spec)
    assert world.log == []
