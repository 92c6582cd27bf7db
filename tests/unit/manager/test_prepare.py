# SPDX-License-Identifier: Apache-2.0
"""Preparations: their order, and what is undone."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import shift_by_hand
from lxc_userns.exceptions import (
    InstanceError,
    PolicyError,
    ReplacedError,
    RootfsError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.rootfs.views import strategies
from lxc_userns.rootfs.views.source import RootfsSource
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements
from tests.unit.manager.world import MAPS, OTHER, UUID, World, lease_of


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


def test_the_record_is_there_before_the_first_change(world: World) -> None:
    seen = []
    world.strategy.prepare_tree = lambda *_: seen.append(  # type: ignore[method-assign]
        world.services.store.load("web1")
    )
    prepared = world.manager.prepare(world.request)
    # Not ready, so that a crash here makes the next one look again.
    assert seen == [replace(prepared.record, ready=None, named=False)]
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
    def fail(_instance: str) -> None:
        raise RootfsError("/view", "is busy")

    monkeypatch.setattr(world.views, "unmount", fail)
    world.strategy.fail_at = "mount"
    with pytest.raises(RootfsError, match="mount failed") as raised:
        world.manager.prepare(world.request)
    assert raised.value.__notes__ == [
        "while undoing what was done: /view: is busy"
    ]


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
    for change in (world.manager.release, world.manager.unmount):
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
    with pytest.raises(
        InstanceError, match=f"is prepared, as the instance {UUID}"
    ):
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


def test_what_is_allocated_is_what_is_prepared(world: World) -> None:
    without = replace(world.request, rootfs="/no/such")
    allocated = world.manager.allocate(without)
    assert (allocated.mode, allocated.id_maps) == ("private", MAPS)
    # Nothing is mounted or promised yet.
    assert world.log == []
    assert world.services.store.load("web1") is None
    prepared = world.manager.prepare(world.request)
    assert prepared.id_maps == allocated.id_maps
    assert prepared.root == allocated.root
    with pytest.raises(PolicyError):
        world.manager.allocate(
            replace(world.request, needs=Requirements("host"))
        )


@pytest.mark.parametrize("name", ["reserve", "plan"])
def test_names_of_before_for_allocate(world: World, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} .* use allocate"):
        verb = getattr(world.manager, name)
    assert verb(world.request).id_maps == MAPS


def test_names_of_before(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    before: Any = world.manager
    with pytest.warns(DeprecationWarning, match="prepare_again .* use prepa"):
        assert before.prepare_again("web1") == prepared
    with pytest.warns(DeprecationWarning, match="detach .* use unmount"):
        before.detach(prepared)
    assert world.strategy.mounted == set()
    world.manager.prepare("web1")
    world.guests.add("web1")
    with pytest.warns(DeprecationWarning, match="report_only .* leave it out"):
        before.verify("web1", started=False, report_only=True)
    with pytest.raises(AttributeError, match="'clear'"):
        before.clear("web1")


def test_a_lease_that_is_allocated(pool: World) -> None:
    allocated = pool.manager.allocate(pool.request)
    assert lease_of(pool, "web1") is not None
    assert pool.manager.allocate(pool.request).id_maps == allocated.id_maps
    assert pool.manager.prepare(pool.request).id_maps == allocated.id_maps
    pool.manager.release("web1")
    assert lease_of(pool, "web1") is None
    # Taken back without ever being prepared.
    pool.manager.allocate(pool.request)
    pool.manager.release("web1")
    assert lease_of(pool, "web1") is None
