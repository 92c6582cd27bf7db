# SPDX-License-Identifier: Apache-2.0
"""Leases of instances: given, kept and taken back."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lxc_userns.containers import ContainerSpec
from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    LeaseError,
    LibvirtError,
    LxcUsernsError,
    PoolExhaustedError,
    RootfsError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.leases import gc
from tests.unit.manager.world import (
    UUID,
    FakeInit,
    World,
    another,
    another_uuid,
    lease_of,
    leased,
)


def test_each_instance_has_a_lease(pool: World) -> None:
    request = another(pool, "db")
    assert pool.manager.prepare(pool.request).id_maps == leased(0)
    assert pool.manager.prepare(request).id_maps == leased(1)
    # Again, and after a restart of the service.
    assert pool.manager.prepare(pool.request).id_maps == leased(0)
    assert pool.manager.prepare("web1").id_maps == leased(0)
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
    plan = pool.plan(pool.request)
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
    request = replace(world.request, range_size=65536)
    with pytest.raises(InstanceError, match="and there is no pool; set"):
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
    assert pool.manager.prepare("web1").id_maps == leased(0)
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
    with pytest.raises(
        LeaseError, match=f"is allocated, as the instance {UUID}"
    ):
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
    with pytest.raises(
        InstanceError, match="web1: is prepared, as the instance"
    ):
        pool.manager.prepare(replace(pool.request, uuid=other))
    held = lease_of(pool, "web1")
    assert held is not None
    assert (held.id_maps, held.uuid) == (lease, UUID)
    fixed = replace(another(pool, "fixed"), id_maps=leased(1))
    pool.manager.prepare(fixed)
    with pytest.raises(
        InstanceError, match="fixed: is prepared, as the instance"
    ):
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


def test_a_lease_goes_last(pool: World) -> None:
    """No other gets IDs of a view that could not be unmounted."""
    prepared = pool.manager.prepare(pool.request)
    pool.strategy.fail_at = "unmount"
    with pytest.raises(RootfsError, match="unmount failed"):
        pool.manager.release("web1")
    assert lease_of(pool, "web1") is not None
    assert pool.services.store.load("web1") == prepared.record
    pool.strategy.fail_at = ""
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
