# SPDX-License-Identifier: Apache-2.0
"""Worlds for the pipeline of an instance."""

from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.spec.request import InstanceRequest
from tests.unit.id_host import IdHost
from tests.unit.manager.world import (
    ID_MAP,
    POOL,
    UUID,
    FakeGuests,
    FakeStrategy,
    FakeTraces,
    FakeViews,
    World,
    make_ports,
)


@pytest.fixture
def tmp_path(passable_path: Path) -> Path:
    """A directory that users can pass through, as run_path has to be."""
    return passable_path


@pytest.fixture
def world(tmp_path: Path) -> World:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    log: list[str] = []
    strategy, traces = FakeStrategy(log), FakeTraces()
    views = FakeViews(f"{tmp_path}/run", strategy)
    guests = FakeGuests(log)
    rootfs = tmp_path / "rootfs"
    (rootfs / "sbin").mkdir(parents=True)
    (rootfs / "sbin/init").touch(0o755)
    made = World(
        conf=conf,
        guests=guests,
        strategy=strategy,
        views=views,
        traces=traces,
        ports=make_ports(strategy, views, traces, tmp_path / "run", guests),
        log=log,
        rootfs=str(rootfs),
        request=InstanceRequest("web1", UUID, str(rootfs)),
    )
    made.set(
        uid_maps=[str(ID_MAP)],
        gid_maps=[str(ID_MAP)],
        rootfs_strategy="chown",
        state_path=str(tmp_path / "state"),
        run_path=str(tmp_path / "run"),
    )
    return made


@pytest.fixture
def alice(id_host: IdHost) -> Callable[[], None]:
    """Makes a user who has an ID of the containers."""

    def make() -> None:
        id_host.users = {100500: "alice"}

    return make


@pytest.fixture
def pool(world: World, id_host: IdHost) -> World:
    """A world in which each instance has a lease, and two can."""
    id_host.hold(POOL, POOL)
    world.set(uid_maps=[], gid_maps=[], subid_owner="lxc")
    return world
