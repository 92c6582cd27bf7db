# SPDX-License-Identifier: Apache-2.0
"""Ends of containers, and units that start them again."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lxc_userns.containers import Containers, ContainerSpec
from lxc_userns.containers.ending import Ending, wait_for_end
from lxc_userns.containers.restart_units import RestartUnits
from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.spec.restart_policy import RestartPolicy
from lxc_userns.traces.trace import Trace
from tests.unit.manager.world import World, run


@pytest.mark.parametrize(
    ("status", "is_stopped", "code", "said"),
    [
        (0, False, 0, "exit code 0"),
        (3 << 8, False, 3, "exit code 3"),
        (signal.SIGINT, False, 0, "powered off"),
        (signal.SIGKILL, False, 137, "signal SIGKILL"),
        (None, False, 125, "exit status unknown"),
        (signal.SIGKILL, True, 143, "stopped"),
    ],
)
def test_an_ending(
    status: int | None, is_stopped: bool, code: int, said: str
) -> None:
    ending = Ending(status, is_stopped)
    assert (ending.exit_code, ending.describe()) == (code, said)


class Systemd:
    """systemd of a host, with the units of this package."""

    def __init__(self, directory: Path) -> None:
        self.called: list[str] = []
        self.fails_at = ""
        self.wanted = directory / "wanted"
        self.wanted.mkdir()
        self.units = RestartUnits(
            str(self.wanted), str(directory), self._systemctl
        )

    def _systemctl(self, argv: list[str], *, timeout: float) -> None:
        assert timeout > 10
        assert argv[:2] == ["systemctl", "--quiet"]
        _, _, verb, *_, unit = argv
        if verb == self.fails_at:
            raise OSError("no")
        self.called.append(f"{verb} {unit}")
        if verb == "enable":
            (self.wanted / unit).symlink_to("/nowhere")
        if verb == "disable":
            (self.wanted / unit).unlink()


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    (tmp_path / "systemd").mkdir()
    return Systemd(tmp_path / "systemd")


ALWAYS = "lxc-userns-always@web1.service"
ON_FAILURE = "lxc-userns-on-failure@web1.service"


def test_a_policy_is_the_unit_that_is_enabled(systemd: Systemd) -> None:
    units = systemd.units
    assert units.find_policy("web1") is RestartPolicy.NO
    for policy in (RestartPolicy.ALWAYS, *RestartPolicy):
        units.set_policy("web1", policy)
        assert units.find_policy("web1") is policy
        assert units.find_policy("web") is RestartPolicy.NO
        units.follow("web1")
    assert systemd.called == [
        f"enable {ALWAYS}", f"start {ALWAYS}",
        f"disable {ALWAYS}",
        f"enable {ON_FAILURE}", f"start {ON_FAILURE}",
        f"disable {ON_FAILURE}", f"enable {ALWAYS}", f"start {ALWAYS}",
    ]  # fmt: skip


def test_what_a_policy_needs(systemd: Systemd, tmp_path: Path) -> None:
    systemd.units.check(RestartPolicy.ALWAYS)
    assert systemd.called == ["cat lxc-userns-always@.service"]
    systemd.fails_at = "cat"
    with pytest.raises(ConfigError, match="needs a unit that systemd does"):
        systemd.units.check(RestartPolicy.ALWAYS)
    nowhere = RestartUnits(booted=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="needs systemd, which is not here"):
        nowhere.check(RestartPolicy.ON_FAILURE)
    nowhere.check(RestartPolicy.NO)


@pytest.fixture
def containers(world: World, systemd: Systemd) -> Callable[[], Containers]:
    """Make the containers of a host with systemd."""
    return lambda: Containers(world.manager, world.services, systemd.units)


def test_the_unit_of_a_container(
    world: World, systemd: Systemd, containers: Callable[[], Containers]
) -> None:
    spec = ContainerSpec("web1", world.rootfs, restart=RestartPolicy.ALWAYS)
    containers().run(spec)
    assert containers().show("web1").restart is RestartPolicy.ALWAYS
    containers().stop("web1")
    containers().start("web1")
    containers().destroy("web1")
    assert systemd.called == [
        "cat lxc-userns-always@.service", f"enable {ALWAYS}",
        f"start {ALWAYS}", f"start {ALWAYS}", f"disable {ALWAYS}",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["enable", "start"])
def test_systemd_refuses(
    verb: str,
    world: World,
    systemd: Systemd,
    containers: Callable[[], Containers],
) -> None:
    """Nothing is left of a container that would not be started again."""
    systemd.fails_at = verb
    spec = ContainerSpec("web1", world.rootfs, restart=RestartPolicy.ALWAYS)
    with pytest.raises(InstanceError, match=f"systemctl {verb}: no"):
        containers().run(spec)
    assert (world.guests.domains, world.strategy.mounted) == ({}, set())
    assert systemd.units.find_policy("web1") is RestartPolicy.NO


def test_an_end_before_anybody_waited(world: World) -> None:
    with pytest.raises(NoSuchContainerError):
        world.containers.wait("web1")
    run(world)
    world.guests.add("web1", active=False)
    world.traces.last = Trace(ended=True, status=7 << 8)
    assert world.containers.wait("web1") == Ending(7 << 8, False)
    world.traces.note_stop("web1", 4321)
    assert world.containers.wait("web1") == Ending(7 << 8, True)


@pytest.mark.parametrize(
    ("status", "is_stopped"),
    [(7 << 8, False), (signal.SIGHUP, True), (signal.SIGKILL, True)],
)
@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_stop_of_one_that_has_ended(
    status: int, is_stopped: bool, is_noticed: bool, world: World
) -> None:
    """It was not stopped, also if libvirt has not noticed its end.

    One that reboots may be there again at any time.
    """
    run(world)
    controller = world.guests.domains["web1"].controller
    world.traces.last = Trace(True, status, controller=controller)
    if is_noticed:
        world.guests.add("web1", active=False)
        is_stopped = False
    world.containers.stop("web1")
    if not is_noticed:  # libvirt says so of what it is told to end.
        stopped = world.guests.domains["web1"]
        world.guests.domains["web1"] = replace(stopped, is_destroyed=True)
    assert world.containers.wait("web1") == Ending(status, is_stopped)


def test_one_that_has_never_run(world: World) -> None:
    world.guests.add("theirs", active=False)
    with pytest.raises(NotRunningError):
        wait_for_end(world.services, "theirs", patience=0)
