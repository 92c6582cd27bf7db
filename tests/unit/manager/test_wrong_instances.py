# SPDX-License-Identifier: Apache-2.0
"""Verbs on an instance that is another by now, or not what it was."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from lxc_userns.exceptions import (
    InstanceError,
    NeedsError,
    NoSuchContainerError,
    RunningError,
)
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.plan import Planner
from lxc_userns.spec.requirements import Requirements
from tests.unit.manager.world import (
    MAPS,
    OTHER,
    UUID,
    World,
    lease_of,
    leased,
)

OTHER_UUID = UUID.replace("0", "1")


def look(world: World) -> object:
    """Return all that a refused verb must not change."""
    record = world.services.store.load("web1")
    return record, {*world.strategy.mounted}, [*world.log]


@pytest.mark.parametrize("verb", ["allocate", "prepare"])
def test_a_name_is_not_given_to_another(world: World, verb: str) -> None:
    """Also where no lease tells whose it is."""
    world.manager.prepare(world.request)
    before = look(world)
    other = replace(world.request, uuid=OTHER_UUID)
    with pytest.raises(InstanceError) as caught:
        world.verb(verb)(other)
    assert str(caught.value) == (
        f"web1: is prepared, as the instance {UUID}; call release first, or, "
        "if libvirt does not know that one any more, run: lxc-userns gc "
        "--grace-period 0 web1"
    )
    assert look(world) == before


@pytest.mark.parametrize("verb", ["allocate", "prepare"])
def test_a_device_that_is_not_there(world: World, verb: str) -> None:
    """The error names the instance, and it has nothing."""
    before = look(world)
    needs = Requirements(devices=("/dev/lxc-userns-none",))
    with pytest.raises(NeedsError) as caught:
        world.verb(verb)(replace(world.request, needs=needs))
    assert str(caught.value) == (
        "web1: device '/dev/lxc-userns-none': No such file or directory"
    )
    assert look(world) == before


@pytest.mark.parametrize("verb", ["sync", "unmount", "release"])
def test_one_that_was_released_is_not_the_next(
    world: World, verb: str
) -> None:
    first = world.manager.prepare(world.request)
    world.manager.release(first)
    getattr(world.manager, verb)(first)
    other = replace(world.request, uuid=OTHER_UUID)
    world.manager.prepare(other)
    before = look(world)
    with pytest.raises(InstanceError) as caught:
        getattr(world.manager, verb)(first)
    assert str(caught.value) == (
        f"web1: is prepared, as the instance {OTHER_UUID}, and {UUID} is "
        f"released; call {verb} with what prepare has returned for that one"
    )
    assert look(world) == before
    world.manager.release("web1")
    assert world.strategy.mounted == set()


def test_a_lease_of_another_is_not_released(pool: World) -> None:
    first = pool.manager.prepare(pool.request)
    pool.manager.release(first)
    pool.manager.allocate(replace(pool.request, uuid=OTHER_UUID))
    with pytest.raises(
        InstanceError, match=f"{UUID} is released; call release"
    ):
        pool.manager.release(first)
    assert lease_of(pool, "web1") is not None


@pytest.mark.parametrize("is_taken", [False, True])
def test_what_was_released_and_started_is_destroyed(
    world: World, is_taken: bool
) -> None:
    """Its host IDs may be those of another by now."""
    first = world.manager.prepare(world.request)
    world.manager.release(first)
    if is_taken:
        world.manager.prepare(replace(world.request, uuid=OTHER_UUID))
    world.guests.add("web1")
    with pytest.raises(InstanceError, match="web1: is "):
        world.manager.verify(first, started=False)
    assert world.guests.domains["web1"].is_active
    with pytest.raises(InstanceError, match="web1: is "):
        world.manager.verify(first, started=True)
    assert not world.guests.domains["web1"].is_active


def test_verify_is_of_the_last_promise(world: World) -> None:
    """Whichever promise its caller still has."""
    first = world.manager.prepare(world.request)
    world.manager.prepare(replace(world.request, max_processes=7))
    world.guests.add("web1")
    seen: list[int] = []

    def enforce(*given: int) -> list[str]:
        seen.append(given[-1])
        return []

    world.inspect(enforce=enforce)
    world.manager.verify(first, started=True)
    assert seen == [7]


def test_what_runs_is_not_given_other_ids(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    assert world.manager.allocate(world.request).id_maps == MAPS
    with pytest.raises(RunningError, match="its domain, then call allocate"):
        world.manager.allocate(replace(world.request, id_maps=OTHER))
    world.guests.add("web1", active=False)
    other = world.manager.allocate(replace(world.request, id_maps=OTHER))
    assert other.id_maps == OTHER


def test_an_allocation_does_not_weaken_a_promise(pool: World) -> None:
    pool.manager.prepare(pool.request)
    pool.set(subid_owner="")
    with pytest.raises(
        InstanceError, match=r"is prepared with the ID maps .*; call rel"
    ):
        pool.manager.allocate(pool.request)
    assert pool.manager.prepare("web1").id_maps == leased(0)


@pytest.fixture
def meanwhile(
    pool: World, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], None]:
    """Let others act between a look at a record and its lock."""

    def arrange(act: Callable[[], object]) -> None:
        planner = type(pool.services.planner)
        check = planner.check_again

        def check_and_act(self: Planner, record: InstanceRecord) -> None:
            check(self, record)
            act()

        monkeypatch.setattr(planner, "check_again", check_and_act)

    return arrange


@pytest.mark.parametrize("is_taken", [False, True])
def test_what_is_released_meanwhile_is_not_prepared(
    pool: World,
    meanwhile: Callable[[Callable[[], object]], None],
    is_taken: bool,
) -> None:
    """Else it would have IDs that are another's."""
    pool.manager.prepare(pool.request)

    def release() -> None:
        pool.manager.release("web1")
        if is_taken:
            pool.manager.prepare(replace(pool.request, uuid=OTHER_UUID))

    meanwhile(release)
    with pytest.raises(NoSuchContainerError, match="web1: is unknown; call"):
        pool.manager.prepare("web1")
    record = pool.services.store.load("web1")
    assert (record and record.uuid) == (OTHER_UUID if is_taken else None)
    assert (pool.strategy.mounted == {"web1"}) is is_taken


def test_what_is_promised_meanwhile_is_prepared(
    pool: World, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    pool.manager.prepare(pool.request)
    other = replace(pool.request, max_processes=7)
    meanwhile(lambda: pool.manager.prepare(other))
    assert pool.manager.prepare("web1").record.max_processes == 7


def test_an_allocated_instance_is_not_prepared_by_name(pool: World) -> None:
    for state in ("unknown", "allocated"):
        with pytest.raises(NoSuchContainerError) as caught:
            pool.manager.prepare("web1")
        assert str(caught.value) == (
            f"web1: is {state}; call prepare with a request"
        )
        allocated = pool.manager.allocate(pool.request)
    assert isinstance(allocated, PreparedInstance)
