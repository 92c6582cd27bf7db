# SPDX-License-Identifier: Apache-2.0
"""Leases whose instance is gone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from lxc_userns.exceptions import (
    LibvirtError,
    RootfsError,
)
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases import gc
from lxc_userns.libvirtd.guest import Guest
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
from tests.waiting import hurried

Collect = Callable[[float], dict[str, tuple[str, str]]]


def collect(
    services: FakeServices, grace_period: float = 60, **options: Any
) -> dict[str, tuple[str, str]]:
    found = gc.collect_garbage(
        cast(Services, services), grace_period, **options
    )
    return {e.instance: (e.outcome, e.reason) for e in found}


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


def collect_all(
    services: FakeServices, grace_period: float = 60, *only: str
) -> dict[str, tuple[str, str]]:
    return collect(services, grace_period, only=only, records=True)


WAITING = ("waiting", "libvirt has not known it for 0 seconds")
REMOVED = ("removed", "libvirt does not know it")


def test_a_record_without_a_lease(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    """It has ID maps that are for all, or none."""
    host.save("fixed", maps(5000))
    host.save("hosts", None)
    host.allocator.acquire("leased")
    host.guests.found = [Guest("renamed", UUID, "stopped", None)]
    assert collect_all(services) == {"leased": WAITING}
    host.guests.found = [Guest("fixed", OTHER_UUID, "running", 7)]
    assert [*collect(services)] == ["leased"]
    assert collect_all(services) == {
        "leased": WAITING, "fixed": WAITING, "hosts": WAITING
    }  # fmt: skip
    clock[0] += 60
    assert collect_all(services, 60, "fixed") == {"fixed": REMOVED}
    assert services.cleared == ["fixed"]
    assert [*collect_all(services)] == ["leased", "hosts"]
    assert host.allocator.instances.store.load_all() == []
    assert collect_all(services) == {}


def test_a_note_goes_with_the_record_that_it_is_about(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    """A record is written anew when its instance is prepared again."""
    host.save("a", maps(5000))
    assert collect_all(services) == {"a": WAITING}
    clock[0] += 1000
    host.save("a", maps(5000))
    assert collect_all(services) == {"a": WAITING}
    clock[0] += 1000
    # One that libvirt knows again is waited for again, too.
    host.guests.found = [Guest("a", UUID, "stopped", None)]
    assert collect_all(services) == {}
    host.guests.found = []
    assert collect_all(services) == {"a": WAITING}
    # So it is if the clock was set back.
    clock[0] = 10
    assert collect_all(services) == {"a": WAITING}
    clock[0] += 60
    assert collect_all(services) == {"a": REMOVED}


@pytest.mark.parametrize("leased", [True, False])
def test_a_record_that_is_written_after_libvirt_was_asked(
    host: Host, services: FakeServices, leased: bool
) -> None:
    if leased:
        host.allocator.acquire("a", UUID)
    host.save("a", maps(BASE))
    services.after_asking = lambda name: host.save(name, maps(BASE), ready=7)
    assert collect_all(services, 0) == {}
    assert services.cleared == []


def test_a_lease_that_is_acquired_after_libvirt_was_asked(
    host: Host, services: FakeServices
) -> None:
    """It stays, whatever becomes of the record."""
    host.save("a", maps(BASE))
    services.meanwhile = lambda: host.allocator.acquire("a")
    assert collect_all(services, 0) == {}
    assert host.starts() == {"a": BASE}


@pytest.mark.parametrize("leased", [True, False])
def test_one_that_is_defined_after_libvirt_was_asked(
    host: Host, services: FakeServices, tmp_path: Path, leased: bool
) -> None:
    """Or one whose definition libvirt cannot read since an upgrade."""
    services.definitions = tmp_path
    if leased:
        host.allocator.acquire("a", UUID)
    host.save("a", maps(BASE))
    file = tmp_path / "a.xml"
    for uuid, outcome in ((UUID, "kept"), ("torn", "kept")):
        file.write_text(f"<name>a</name>\n  <uuid>{uuid}</uuid>")
        assert collect_all(services, 0)["a"] == (
            outcome,
            f"is defined in {file}",
        )
    file.write_text(f"<name>a</name>\n  <uuid>{OTHER_UUID}</uuid>")
    assert collect_all(services, 0)["a"][0] in ("returned", "removed")


def test_records_that_are_kept(host: Host, services: FakeServices) -> None:
    host.save("over", maps(5000), strategy=Strategy.OVERLAY)
    host.save("runs", maps(5000))
    services.after_asking = lambda _name: setattr(
        host.guests, "found", [Guest("runs", UUID, "running", 7)]
    )
    # All have one UUID here, so libvirt knows all from then on.
    assert collect_all(services, 0, "runs")["runs"] == ("kept", "is running")
    host.guests.found, services.after_asking = [], str
    assert collect_all(services, 0, "over") == {
        "over": ("kept", "has files of its own; destroy or release the "
                 "instance")
    }  # fmt: skip
    assert services.cleared == []


def test_a_damaged_record_without_a_lease(
    host: Host, services: FakeServices, tmp_path: Path
) -> None:
    host.save("b", maps(BASE))
    host.save("c", maps(BASE))
    (tmp_path / "state/instances/b.json").write_text("{")
    found = collect_all(services, 0)
    assert (found["b"][0], found["c"][0]) == ("kept", "removed")
    assert "is damaged" in found["b"][1]


@pytest.mark.parametrize("lock", ["lock", "lock_container"])
def test_one_that_somebody_works_on(
    host: Host,
    services: FakeServices,
    lock: str,
) -> None:
    host.save("a", maps(5000))
    host.save("b", maps(5000))
    services.originals.keep(OTHER_UUID, "<name>c</name>")
    store = host.allocator.instances.store
    with (
        getattr(store, lock)("a"),
        services.originals.lock(),
        hurried(),
    ):
        found = gc_in_thread(services)
    for name in ("a", "c"):
        assert found[name][0] == "kept"
        assert "another operation has held it for" in found[name][1]
    assert found["b"][0] == "removed"


def gc_in_thread(services: FakeServices) -> dict[str, tuple[str, str]]:
    """Collect as another process would, with no lock of the caller."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(collect_all, services, 0).result()


def test_no_record_without_libvirt(host: Host, services: FakeServices) -> None:
    host.save("a", maps(5000))
    host.guests.is_there = False
    with pytest.raises(LibvirtError):
        collect_all(services, 0)
    assert host.allocator.instances.store.unknown_since("a") is None


ORIGINAL = "<domain><name>a&amp;b</name>"


def test_what_is_kept_of_a_converted_domain(
    host: Host, services: FakeServices, clock: list[float]
) -> None:
    services.originals.keep(UUID, ORIGINAL)
    waiting = ("waiting", "libvirt has not known it for 0 seconds")
    assert collect_all(services, 60) == {"a&b": waiting}
    clock[0] += 60
    host.guests.found = [Guest("renamed", UUID, "stopped", None)]
    assert collect_all(services, 60) == {}
    host.guests.found = []
    assert collect_all(services, 60) == {"a&b": waiting}
    clock[0] += 59
    assert collect_all(services, 60)["a&b"][0] == "waiting"
    # Converted once more.
    services.originals.keep(UUID, ORIGINAL)
    assert collect_all(services, 60) == {"a&b": waiting}
    clock[0] += 60
    assert collect_all(services, 60)["a&b"][0] == "removed"
    assert services.originals.all() == []


def test_what_is_kept_goes_with_its_instance(
    host: Host, services: FakeServices
) -> None:
    services.originals.keep(UUID, ORIGINAL)
    host.save("over", maps(5000), strategy=Strategy.OVERLAY)
    assert [*collect_all(services, 0)] == ["over"]
    assert services.originals.read(UUID) == ORIGINAL


def test_what_is_kept_of_one_that_is_defined_on_disk(
    services: FakeServices, tmp_path: Path
) -> None:
    services.definitions = tmp_path
    services.originals.keep(UUID, "no XML")
    file = tmp_path / "a.xml"
    file.write_text(f"<name>a</name>\n  <uuid>{UUID}</uuid>")
    kept = ("kept", f"is defined in {file}")
    assert collect_all(services, 0) == {UUID: kept}


def test_its_name_until_now() -> None:
    with pytest.warns(DeprecationWarning, match="use lxc_userns.leases"):
        assert gc.OrphanedLease is gc.Orphan
    with pytest.raises(AttributeError):
        _ = gc.Orphans
