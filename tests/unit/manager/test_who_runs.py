# SPDX-License-Identifier: Apache-2.0
"""Running instances, as the kernel and libvirtd tell of them."""

from dataclasses import dataclass, field

import pytest

from lxc_userns.exceptions import InstanceError, LibvirtError
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains
from tests.unit.manager.world import UUID, World, another_uuid, failing

RUNNING = "web1: is running; stop its domain, then call "


@dataclass
class Kernel(RunningDomains):
    """Processes that are there whatever libvirtd says."""

    found: list[RunningDomain] = field(default_factory=list)

    def list(self) -> "list[RunningDomain]":  # type: ignore[override]
        return self.found


def prepared(world: World, *running: RunningDomain) -> None:
    """Prepare an instance, and have these run afterwards."""
    world.manager.prepare(world.request)
    world.reach(running=Kernel([*running]))


def test_while_it_reboots_libvirtd_tells(world: World) -> None:
    """It has no process then, and is about to have one."""
    prepared(world)
    world.guests.add("web1")
    with pytest.raises(InstanceError, match=RUNNING):
        world.manager.release("web1")
    assert world.strategy.mounted == {"web1"}


def test_an_end_that_libvirtd_has_missed(world: World) -> None:
    """Active, and its libvirt_lxc is gone: it is stopped."""
    prepared(world)
    world.guests.add("web1")
    world.guests.lost.append("web1")
    world.manager.release("web1")
    assert world.strategy.mounted == set()


@pytest.mark.parametrize("uuid", [UUID, None])
def test_without_libvirtd_the_kernel_tells(
    world: World, monkeypatch: pytest.MonkeyPatch, uuid: str | None
) -> None:
    """Nothing tells a domain's UUID while it starts: it may be this one."""
    prepared(world, RunningDomain("web1", 4200, uuid))
    for name in ("find", "list"):
        gone = failing(LibvirtError("connect", "no such socket"))
        monkeypatch.setattr(world.guests, name, gone)
    with pytest.raises(InstanceError, match=RUNNING):
        world.manager.release("web1")
    assert world.strategy.mounted == {"web1"}
    world.reach(running=Kernel())
    world.manager.release("web1")
    assert world.strategy.mounted == set()
    world.manager.prepare(world.request)


def test_started_after_libvirtd_was_asked(world: World) -> None:
    prepared(world, RunningDomain("web1", 4200, UUID))
    world.guests.add("web1", active=False)
    with pytest.raises(InstanceError, match=RUNNING):
        world.manager.release("web1")


def test_somebody_elses_of_that_name(world: World) -> None:
    """By its UUID it is proved to be another's; a new one is refused."""
    other = RunningDomain("web1", 4200, another_uuid("web1"))
    prepared(world, other)
    world.manager.release("web1")
    with pytest.raises(InstanceError, match=RUNNING):
        world.manager.prepare(world.request)
