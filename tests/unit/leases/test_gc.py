# SPDX-License-Identifier: Apache-2.0
"""Leases whose instance is gone."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from lxc_userns.exceptions import (
    LibvirtError,
    RootfsError,
)
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases import gc
from lxc_userns.libvirtd.client import Guest
from lxc_userns.services import Services
from lxc_userns.spec.strategy import Strategy
from tests.unit.leases.lease_host import (
    BASE,
    OTHER_UUID,
    UUID,
    FakeServices,
    Host,
    S,
    maps,
    record,
)

Collect = Callable[[float], dict[str, tuple[str, str]]]


def collect(
    services: FakeServices, grace_period: float = 60
) -> dict[str, tuple[str, str]]:
    found = gc.collect_garbage(cast(Services, services), grace_period)
    return {e.lease.instance: (e.outcome, e.reason) for e in found}


def test_an_orphan(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    host.allocator.acquire("by-name")
    host.allocator.acquire("by-uuid", UUID)
    host.guests.found = [
        Guest("by-name", OTHER_UUID, "stopped", None),
        Guest("renamed", UUID, "running", 77),
    ]
    assert collect(services) == {}
    host.guests.found = []
    waiting = ("waiting", "libvirt has not known it for 0 seconds")
    assert collect(services) == {"by-name": waiting, "by-uuid": waiting}
    lease = host.allocator.find("by-name")
    assert lease is not None
    assert lease.unknown_since == 1000
    clock[0] = 1059
    assert collect(services)["by-name"] == (
        "waiting",
        "libvirt has not known it for 59 seconds",
    )
    clock[0] = 1060
    gone = ("returned", "libvirt does not know it")
    assert collect(services) == {"by-name": gone, "by-uuid": gone}
    assert services.cleared == ["by-name", "by-uuid"]
    assert collect(services) == {}


def test_no_period_needs_no_second_look(
    host: Host, services: FakeServices
) -> None:
    host.allocator.acquire("a")
    assert collect(services, 0)["a"][0] == "returned"


def test_a_domain_that_comes_back(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    host.allocator.acquire("a")
    assert collect(services)["a"][0] == "waiting"
    host.guests.found = [Guest("a", UUID, "stopped", None)]
    clock[0] = 5000
    assert collect(services) == {}
    host.guests.found = []
    # The period begins anew.
    assert collect(services)["a"][0] == "waiting"


def test_a_domain_that_is_about_to_be(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    host.allocator.acquire("a")
    collect(services)
    clock[0] = 5000
    host.allocator.acquire("a")
    assert collect(services)["a"][0] == "waiting"
    clock[0] = 9000
    with host.allocator.commit_record(record("a", maps(BASE))):
        pass
    assert collect(services)["a"][0] == "waiting"


def test_a_clock_that_goes_back(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    """The period begins anew, and ends."""
    host.allocator.acquire("a")
    collect(services)
    clock[0] = 10
    reason = "libvirt has not known it for 0 seconds"
    assert collect(services)["a"] == ("waiting", reason)
    clock[0] += gc.GRACE_PERIOD
    assert collect(services)["a"][0] == "returned"


def test_somebody_elses_domain_of_that_name(
    host: Host, services: FakeServices
) -> None:
    host.allocator.acquire("a", UUID)
    host.guests.found = [Guest("a", OTHER_UUID, "running", 77)]
    assert collect(services, 0)["a"][0] == "returned"


def test_orphans_that_are_kept(host: Host, services: FakeServices) -> None:
    for name, values in (
        ("over", {"strategy": Strategy.OVERLAY}),
        ("packed", {"archive": "/srv/x.tar"}),
    ):
        lease = host.allocator.acquire(name)
        host.save(name, lease.id_maps, **values)
    running = host.allocator.acquire("running")
    host.run(4000, running.uid_start, 1)
    found = collect(services, 0)
    own = ("kept", "has files of its own; destroy or release the instance")
    assert found == {
        "over": own,
        "packed": own,
        "running": (
            "kept",
            "is in use by the running process 4000 (sleep) "
            f"({running.uid_start}:1)",
        ),
    }
    assert services.cleared == []
    assert len(host.starts()) == 3


def test_an_orphan_that_is_busy(host: Host, services: FakeServices) -> None:
    lease = host.allocator.acquire("a")
    host.save("a", lease.id_maps)
    services.error = RootfsError("/run/x", "is busy")
    assert collect(services, 0) == {"a": ("kept", "/run/x: is busy")}
    services.error = None
    assert collect(services, 0)["a"][0] == "returned"


def test_a_damaged_record_does_not_stop_the_others(
    host: Host, services: FakeServices, tmp_path: Path
) -> None:
    for name in "abc":
        host.allocator.acquire(name)
    host.save("b", maps(BASE + S))
    (tmp_path / "state/instances/b.json").write_text("{")
    found = collect(services, 0)
    assert found["b"][0] == "kept"
    assert "is damaged" in found["b"][1]
    assert (found["a"][0], found["c"][0]) == ("returned", "returned")


def test_nothing_without_libvirt(host: Host, services: FakeServices) -> None:
    host.allocator.acquire("a")
    host.guests.is_there = False
    with pytest.raises(LibvirtError):
        collect(services, 0)
    assert [*host.starts()] == ["a"]


def test_one_that_was_released_meanwhile(
    host: Host, services: FakeServices
) -> None:
    host.allocator.acquire("a")
    host.allocator.acquire("b")

    def end(name: str) -> None:
        if name == "a":
            host.allocator.release("a")
        else:
            host.guests.found = [Guest("b", UUID, "running", 7)]

    services.before = end
    assert collect(services, 0) == {}
    assert [*host.starts()] == ["b"]


def test_one_that_starts_after_libvirt_was_asked(
    host: Host, services: FakeServices
) -> None:
    """A transient domain, for example."""
    host.allocator.acquire("a", UUID)
    guests = [Guest("a", UUID, "running", 7)]
    services.after_asking = lambda _: setattr(host.guests, "found", guests)
    assert collect(services, 0) == {"a": ("kept", "is running")}
    host.guests.found = [Guest("a", OTHER_UUID, "running", 7)]
    services.after_asking = str
    assert collect(services, 0)["a"][0] == "returned"


@pytest.mark.parametrize("call", ["acquire", "release"])
def test_one_that_changes_after_libvirt_was_asked(
    host: Host, services: FakeServices, call: str
) -> None:
    host.allocator.acquire("a")
    services.after_asking = getattr(host.allocator, call)
    assert collect(services, 0) == {}
    assert services.cleared == []


def test_one_that_is_asked_for_again_meanwhile(
    host: Host, services: FakeServices
) -> None:
    lease = host.allocator.acquire("a")
    services.meanwhile = lambda: host.allocator.acquire("a")
    assert collect(services, 0) == {}
    assert host.allocator.find("a") == lease


def test_libvirt_is_asked_after_it_was_noted(
    host: Host, services: FakeServices
) -> None:
    """An owner of a domain who asks for the lease before loses nothing."""
    lease = host.allocator.acquire("a")

    def define() -> float:
        host.guests.found = [Guest("a", UUID, "stopped", None)]
        host.allocator.acquire("a")
        return 1000.0

    # The time is asked for just before it is noted.
    host.reach(clock=define)
    assert collect(services, 0) == {}
    assert host.allocator.find("a") == lease
