# SPDX-License-Identifier: Apache-2.0
"""Leases after a loss: of the database, or of records."""

import os
from pathlib import Path
from typing import cast

import pytest

from lxc_userns.exceptions import (
    InstanceError,
    LeaseError,
    PoolExhaustedError,
    RootfsError,
)
from lxc_userns.instances.conflicts import PathUse
from lxc_userns.leases import Lease
from lxc_userns.leases import allocator as allocator
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.linux.process import Rows
from lxc_userns.spec.volume import Volume
from tests.unit.leases.lease_host import (
    BASE,
    OTHER_UUID,
    UUID,
    Host,
    S,
    maps,
    record,
)


def test_leases_have_no_default_owner(host: Host) -> None:
    assert host.allocator.acquire("a") == Lease(
        instance="a",
        uuid=None,
        uid_start=BASE,
        gid_start=BASE,
        count=S,
        acquired=cast(Lease, host.allocator.find("a")).acquired,
    )


def test_a_lost_database_while_a_container_runs(host: Host) -> None:
    """By the record, or else by what runs, it has what it had."""
    host.allocator.acquire("other")
    own = host.allocator.acquire("web")
    other = host.allocator.acquire("third")
    host.save("web", own.id_maps)
    host.guests.found = [Guest("third", OTHER_UUID, "running", 99)]
    host.guests.rows = {"third": ((0, other.uid_start, S),)}
    os.unlink(host.allocator.leases.file)
    for lease in (own, other):
        again = host.allocator.acquire(lease.instance)
        assert again.id_maps == lease.id_maps
    assert host.allocator.acquire("fourth").uid_start == BASE


@pytest.mark.parametrize("size", [S, 2 * S])
def test_a_lost_database_and_another_size(host: Host, size: int) -> None:
    host.save("web", maps(BASE + S, size))
    assert host.allocator.acquire("web").id_maps == maps(BASE + S, size)
    host.allocator.release("web")
    with pytest.raises(LeaseError, match="which cannot be a lease"):
        host.allocator.acquire("web", size=7)


def test_what_has_ids_that_are_no_lease_gets_no_others(host: Host) -> None:
    host.save("fixed", maps(BASE - S))
    host.guests.found = [Guest("runs", OTHER_UUID, "running", 99)]
    host.guests.rows = {"runs": ((0, BASE + 1, 9), (9, BASE + 77, 9))}
    for name in ("fixed", "runs"):
        with pytest.raises(LeaseError, match=f"{name}: has the ID maps 0:"):
            host.allocator.acquire(name)
    assert host.starts() == {}


@pytest.mark.parametrize("rows", [((0, 0, 2**32 - 1),), (), ((0, 0, 1),)])
def test_what_runs_without_maps_of_its_own(host: Host, rows: Rows) -> None:
    host.guests.found = [Guest("web", UUID, "running", 99)]
    host.guests.rows = {"web": rows}
    assert host.allocator.acquire("web").uid_start == BASE


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_lost_database_is_no_new_beginning(
    host: Host, caplog: pytest.LogCaptureFixture, is_empty: bool
) -> None:
    for name in "abc":
        host.save(name, host.allocator.acquire(name).id_maps)
    host.save("plain", None)
    host.save("elsewhere", maps(BASE + 3 * S))
    host.set_pool(f"lxc:{BASE}:{4 * S - 1}\n")
    assert caplog.records == []
    file = Path(host.allocator.leases.file)
    file.unlink()
    if is_empty:
        file.touch()
    host.allocator.pool.usage()
    (warning,) = caplog.messages
    assert warning.startswith(
        f"{file} has no leases, and instances have IDs of the pool of lxc: "
        "a, b, c, elsewhere; if it was lost, restore a backup"
    )
    host.allocator.acquire("a")
    assert len(caplog.messages) == 2
    host.allocator.acquire("b")
    host.allocator.pool.usage()
    assert len(caplog.messages) == 2


def spoil(host: Host, tmp_path: Path, name: str, content: str = "") -> None:
    """Make a record one of a newer version, or nothing that can be read."""
    file = tmp_path / f"state/instances/{name}.json"
    newer = file.read_text().replace('"format": 4', '"format": 5')
    file.write_text(content or newer)


def test_ids_of_a_damaged_record_stay_taken(
    host: Host, tmp_path: Path
) -> None:
    host.save("static", maps(BASE))
    spoil(host, tmp_path, "static")
    lease = host.allocator.acquire("web")
    assert lease.uid_start == BASE + S
    host.save("web", lease.id_maps)
    spoil(host, tmp_path, "web", "{")
    # Its own lease is known by its name.
    assert host.allocator.acquire("c").uid_start == BASE + 2 * S
    with pytest.raises(PoolExhaustedError, match="the instance static"):
        host.allocator.acquire("d")
    assert host.allocator.pool.usage().free == 0
    with pytest.raises(InstanceError, match="newer version"):
        host.allocator.acquire("static")
    with pytest.raises(InstanceError, match="is damaged"):
        host.allocator.release_unused("web")
    assert host.starts() == {"web": BASE + S, "c": BASE + 2 * S}


def test_no_one_keeps_what_a_damaged_record_names(
    host: Host, tmp_path: Path
) -> None:
    host.save("newer", maps(BASE))
    spoil(host, tmp_path, "newer")
    known = record("web", maps(BASE))
    assert host.allocator.acquire("web", known=known).uid_start == BASE + S


@pytest.mark.parametrize("strategy", ["chown", "overlay", "later"])
def test_files_of_a_damaged_record_stay_taken(
    host: Host, tmp_path: Path, strategy: str
) -> None:
    volumes = (
        Volume("/srv/shared", "/shared", readonly=True),
        Volume("/srv/own", "/own", "chown"),
    )
    host.save(
        "newer",
        maps(BASE),
        rootfs="/srv/images/debian",
        strategy=strategy,
        volumes=volumes,
    )
    spoil(host, tmp_path, "newer")
    inventory = host.allocator.instances

    def check(path: str, how: str, **more: bool) -> None:
        inventory.check_unused(
            [PathUse(path=path, strategy=how, id_maps=None, **more)],
            besides="x",
        )

    for path in ("/srv/images/debian", "/srv/images", "/srv/own"):
        for how in ("chown", "idmapped"):
            with pytest.raises(
                RootfsError, match="instance newer: its record"
            ):
                check(path, how)
    # What can be shared with others can be shared on.
    check("/srv/shared", "idmap", is_root=False, readonly=True)
    check("/srv/else", "chown")
    if strategy == "overlay":
        check("/srv/images/debian", "overlay")
