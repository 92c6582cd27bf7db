# SPDX-License-Identifier: Apache-2.0
"""Hosts for leases."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.store import InstanceStore
from lxc_userns.leases import LeaseStore
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.leases.host_pool import HostPool
from lxc_userns.leases.pool import make_pools
from lxc_userns.leases.running import ProcessTable
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux.process import Process
from lxc_userns.rootfs.shifting.state import State
from tests.unit.id_host import IdHost
from tests.unit.leases.lease_host import (
    BASE,
    Directory,
    FakeGuests,
    FakeProcess,
    FakeRunning,
    FakeServices,
    Host,
    S,
    Shift,
)


@pytest.fixture
def host(tmp_path: Path, id_host: IdHost) -> Host:
    guests = FakeGuests()
    state = str(tmp_path / "state")
    inventory = Instances(
        InstanceStore(state),
        partial(Filesystems, state, str(tmp_path / "run")),
        cast(Guests, guests),
        FakeRunning(guests),
    )
    pool = HostPool(
        instances=inventory, leases=LeaseStore(state), owner="lxc", size=S
    )
    made = Host(LeaseAllocator(pool), guests, [], {})
    made.set_pool(f"lxc:{BASE}:{3 * S}\n")

    def find(pid: int) -> FakeProcess:
        for each in made.processes:
            if each.pid == pid:
                return each
        raise ProcessLookupError

    made.reach(
        processes=ProcessTable(
            find=lambda: cast(list[Process], made.processes),
            open=cast(Callable[[int], Process], find),
        ),
        read=lambda owner: make_pools(
            owner, made.ids["user"], made.ids["group"]
        ),
    )
    return made


@pytest.fixture
def shifted(host: Host) -> Shift:
    """Say what trees say of themselves."""
    states: dict[str, State | None] = {}

    def read_state(path: str) -> bytes:
        os.lstat(path)
        if path not in states:
            raise PermissionError(errno.EACCES, "denied")
        state = states[path]
        if state is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return state.encode()

    host.reach(read_state=read_state)
    return states.__setitem__


@pytest.fixture
def services(host: Host) -> FakeServices:
    return FakeServices(host)


@pytest.fixture
def clock(host: Host) -> list[float]:
    """Set the time, in the first place."""
    now = [1000.0]
    host.reach(clock=lambda: now[0])
    return now


@pytest.fixture
def service(id_host: IdHost) -> Directory:
    service = Directory()
    id_host.file("/etc/nsswitch.conf").write_text(
        "# by hand\npasswd: files sss [!UNAVAIL=return]\n"
    )
    id_host.find_user = id_host.find_group = service.find
    return service
