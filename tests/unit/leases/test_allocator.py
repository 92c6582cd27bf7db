# SPDX-License-Identifier: Apache-2.0
"""Leases given and taken back, on a host in memory."""

import errno
import fcntl
import grp
import logging
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    LeaseError,
    LibvirtError,
    PoolExhaustedError,
    PrerequisiteError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.conflicts import PathUse
from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.record import InstanceRecord, InstanceStore
from lxc_userns.leases import Lease, LeaseStore, gc
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases import running as occupants
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.libvirtd.client import Guest, Guests
from lxc_userns.linux.process import Process, Rows
from lxc_userns.rootfs.shifting.state import STATE, State, Work
from lxc_userns.services import Services
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from lxc_userns.subid import owners
from lxc_userns.subid.files import parse
from lxc_userns.subid.owners import IdOwnership

S = 65536
BASE = 2_000_000_000
UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
#: First multiple of 200000 from there on.
TWO_DOMAINS = -(-BASE // 200000) * 200000
OTHER_UUID = "5dce174d-7133-416f-be8b-e0fc2fac55de"


Shift = Callable[[str, State | None], None]


@dataclass
class FakeProcess:
    """One in a user namespace of its own."""

    pid: int
    uid_map: Rows
    gid_map: Rows
    parent: int = 1
    name: str = "sleep"

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class FakeGuests:
    """A libvirtd in memory."""

    found: list[Guest] = field(default_factory=list)
    is_there: bool = True
    rows: dict[str, Rows] = field(default_factory=dict)

    def find(self, name: str) -> Guest | None:
        return {guest.name: guest for guest in self.list()}.get(name)

    @contextmanager
    def init_process(self, name: str) -> Iterator[FakeProcess]:
        yield FakeProcess(2, self.rows[name], self.rows[name])

    def list(self) -> list[Guest]:
        if not self.is_there:
            raise LibvirtError("connect", "no such socket")
        return self.found


@dataclass
class Host:
    """A host in memory, but for records and leases."""

    allocator: LeaseAllocator
    guests: FakeGuests
    processes: list[FakeProcess]
    ids: dict[str, IdOwnership]

    def set_pool(self, uid: str, gid: str | None = None) -> None:
        for kind, text in (
            ("user", uid),
            ("group", uid if gid is None else gid),
        ):
            self.ids[kind] = IdOwnership(
                kind, {}, *parse(text), source="/etc/x"
            )

    def run(self, pid: int, start: int, count: int, parent: int = 1) -> None:
        rows = ((0, start, count),)
        self.processes.append(FakeProcess(pid, rows, rows, parent))

    def starts(self) -> dict[str, int]:
        with self.allocator.leases.read() as leases:
            return {each.instance: each.uid_start for each in leases.all()}

    def save(self, name: str, maps: IdMaps | None, **values: object) -> None:
        self.allocator.instances.store.save(record(name, maps, **values))


def record(name: str, maps: IdMaps | None, **values: object) -> InstanceRecord:
    made = InstanceRecord(
        name, UUID, "/srv/x", maps, Strategy.IDMAPPED, "/run/x"
    )
    return replace(made, **values)  # type: ignore[arg-type]


def maps(start: int, count: int = S) -> IdMaps:
    each = IdMap.parse(f"0:{start}:{count}")
    return IdMaps(each, each)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    guests = FakeGuests()
    state = str(tmp_path / "state")
    inventory = Instances(
        InstanceStore(state),
        Filesystems(state, str(tmp_path / "run")),
        cast(Guests, guests),
    )
    made = Host(
        LeaseAllocator(inventory, LeaseStore(state), "lxc", S), guests, [], {}
    )
    made.set_pool(f"lxc:{BASE}:{3 * S}\n")
    monkeypatch.setattr(
        owners, "read_host_uids", lambda _owner: made.ids["user"]
    )
    monkeypatch.setattr(
        owners, "read_host_gids", lambda _owner: made.ids["group"]
    )

    monkeypatch.setattr(owners, "NSSWITCH", tmp_path / "absent")

    def with_other_maps() -> Iterator[Process]:
        yield from cast(list[Process], made.processes)

    def find(pid: int) -> FakeProcess:
        for each in made.processes:
            if each.pid == pid:
                return each
        raise ProcessLookupError

    monkeypatch.setattr(occupants, "in_other_user_namespaces", with_other_maps)
    monkeypatch.setattr(occupants, "Process", find)
    return made


def test_to_the_last_one(host: Host) -> None:
    for number, name in enumerate("abc"):
        lease = host.allocator.acquire(name)
        assert (
            lease == host.allocator.find(name) == host.allocator.acquire(name)
        )
        assert lease.uid_start == lease.gid_start == BASE + number * S
    with pytest.raises(
        PoolExhaustedError,
        match=rf"^d: no range of {S} user IDs is left in the pool of lxc: "
        rf"{3 * S} of its {3 * S} IDs are leased$",
    ):
        host.allocator.acquire("d")
    assert host.allocator.find("d") is None
    host.allocator.release("b")
    host.allocator.release("a")
    host.allocator.release("b")
    # The longest released first.
    assert host.allocator.acquire("d").uid_start == BASE + S
    assert host.allocator.acquire("e").uid_start == BASE


def test_never_used_ones_first(host: Host) -> None:
    host.allocator.acquire("a")
    host.allocator.release("a")
    assert host.allocator.acquire("a").uid_start == BASE + S


def test_looking_changes_nothing(host: Host) -> None:
    seen = host.allocator.acquire("a", keep=False)
    assert host.allocator.find("a") is None
    assert not host.allocator.leases.exists
    assert host.allocator.acquire("b").uid_start == seen.uid_start


def test_whose_it_is(host: Host) -> None:
    host.allocator.acquire("by-hand")
    assert host.allocator.acquire("by-hand", UUID).uuid == UUID
    assert host.allocator.acquire("by-hand").uuid == UUID
    with pytest.raises(LeaseError, match=f"the instance {UUID} has the lease"):
        host.allocator.acquire("by-hand", OTHER_UUID)
    with pytest.raises(LeaseError, match=r"other: .*uuid"):
        host.allocator.acquire("other", UUID)


def test_sizes(host: Host) -> None:
    assert host.allocator.acquire("small", size=10).count == 10
    assert host.allocator.acquire("large", size=2 * S).uid_start == BASE + S
    assert host.allocator.acquire("large", size=2 * S).count == 2 * S
    # What the configuration says now does not matter to them.
    assert replace(host.allocator, size=5).acquire("small").count == 10
    with pytest.raises(LeaseError, match="has a lease of 10 IDs, not of 11"):
        host.allocator.acquire("small", size=11)
    with pytest.raises(PoolExhaustedError):
        host.allocator.acquire("middle")
    starts = host.starts()
    assert len(starts) == 2


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "a/b", "x" * 64])
def test_names_that_are_none(host: Host, name: str) -> None:
    for call in (
        host.allocator.acquire,
        host.allocator.release,
        host.allocator.find,
    ):
        with pytest.raises(InstanceError, match="not a name"):
            call(name)


def test_without_a_pool(host: Host) -> None:
    lease = host.allocator.acquire("a")
    without = replace(host.allocator, owner="")
    with pytest.raises(ConfigError, match="subid_owner: is empty: there is"):
        without.acquire("b")
    assert without.acquire("a") == lease
    without.release("a")
    assert without.find("a") is None


def test_a_pool_that_cannot_be_used(host: Host) -> None:
    host.set_pool("lxc:5:5\n")
    with pytest.raises(
        ConfigError, match=r"subid_owner = lxc: the 5 .*user.*; the 5 .*group"
    ):
        host.allocator.acquire("a")
    assert not host.starts()


def test_a_pool_that_cannot_be_asked_for(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lease = host.allocator.acquire("a")

    def fail(_owner: str) -> IdOwnership:
        raise PrerequisiteError("getsubids is not installed")

    monkeypatch.setattr(owners, "read_host_uids", fail)
    # Who has a lease does not depend on it.
    assert host.allocator.acquire("a") == lease
    assert caplog.messages == ["getsubids is not installed"]
    with pytest.raises(PrerequisiteError):
        host.allocator.acquire("b")


def test_a_pool_that_has_changed(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    lease = host.allocator.acquire("a")
    assert not caplog.records
    host.set_pool(f"lxc:{BASE + S}:{S}\n")
    assert host.allocator.acquire("a") == lease
    (said,) = caplog.messages
    assert said.startswith("a: its lease (65536 IDs, users from 2000000000")
    assert said.endswith("no longer, in the pool of lxc; it keeps it")
    assert host.allocator.acquire("b").uid_start == BASE + S
    with pytest.raises(PoolExhaustedError, match="65536 of its 65536 IDs"):
        host.allocator.acquire("c")
    # What it had is not leased again, either.
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError):
        host.allocator.acquire("c")
    host.set_pool(f"lxc:{BASE}:{3 * S}\n")
    assert host.allocator.acquire("c").uid_start == BASE + 2 * S
    assert host.allocator.acquire("d").uid_start == BASE


def test_malformed_lines_are_warned_of(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n", f"lxc:{BASE}:{S}\nlxc:1:0x5\n")
    host.allocator.acquire("a")
    (said,) = caplog.messages
    assert said.startswith("/etc/subgid, line 2, 'lxc:1:0x5': start and")
    assert said.endswith("; it is not heeded")


def test_what_runs_is_not_leased(host: Host) -> None:
    host.run(4000, BASE + 100, 1)
    host.run(5000, BASE + S, S, parent=4999)
    host.guests.found = [
        Guest("other", OTHER_UUID, "running", 4999),
        Guest("stopped", UUID, "stopped", None),
    ]
    host.set_pool(f"lxc:{BASE}:{4 * S}\n")
    assert host.allocator.acquire("a").uid_start == BASE + 2 * S
    assert host.allocator.acquire("b").uid_start == BASE + 3 * S
    with pytest.raises(
        PoolExhaustedError,
        match=r"131072 of its 262144 IDs are leased; some are held by the "
        r"running process 4000 \(sleep\) \(2000000100:1\), the running "
        r"container other \(2000065536:65536\)$",
    ):
        host.allocator.acquire("c")
    # Who runs with a lease is not told as somebody else.
    host.run(6000, BASE + 2 * S, S)
    assert len(host.allocator.usage().pools.uid.holders) == 2


def test_what_has_more_than_a_lease_is_told(host: Host) -> None:
    """It may have IDs of the next range, too."""
    host.allocator.acquire("a")
    host.run(4000, BASE, 2 * S)
    assert host.allocator.usage().free == 1
    assert host.allocator.acquire("b").uid_start == BASE + 2 * S


def test_what_calls_itself_something_odd(host: Host) -> None:
    host.run(4000, BASE, S)
    host.processes[0].name = "a\x1b[2Jb\n"
    (holder,) = host.allocator.usage().pools.uid.holders
    shown = r"a\x1b[2Jb\n"
    assert holder.name == f"the running process 4000 ({shown}) ({BASE}:{S})"
    gone = [occupants.RunningIdMap(4999, "uid", range(BASE, BASE + S))]
    (named,) = occupants.with_names(gone, cast(Guests, host.guests))
    assert named.holder.name == f"the running process 4999 ({BASE}:{S})"


def test_what_still_runs_is_not_leased_again(host: Host) -> None:
    lease = host.allocator.acquire("a")
    host.run(4000, lease.uid_start, S)
    host.allocator.release("a")
    assert {host.allocator.acquire(name).uid_start for name in "bc"} == {
        BASE + S,
        BASE + 2 * S,
    }
    with pytest.raises(PoolExhaustedError, match="process 4000"):
        host.allocator.acquire("d")
    host.processes.clear()
    assert host.allocator.acquire("d").uid_start == BASE


def test_without_libvirt_what_runs_has_no_name(host: Host) -> None:
    host.guests.is_there = False
    host.run(5000, BASE, S, parent=4999)
    assert host.allocator.acquire("a").uid_start == BASE + S
    assert (
        "process 5000" in host.allocator.usage().pools.uid.describe_holders()
    )


def test_what_was_promised_before_there_were_leases(host: Host) -> None:
    host.save("old", maps(BASE + S - 1, 10))
    host.save("plain", None)
    assert host.allocator.acquire("a").uid_start == BASE + 2 * S
    with pytest.raises(
        PoolExhaustedError, match=rf"the instance old \({BASE + S - 1}:10\)"
    ):
        host.allocator.acquire("b")
    # The instance itself may move to a lease of its own.
    old = record("old", maps(BASE + S - 1, 10))
    assert host.allocator.acquire("old", known=old).uid_start == BASE


def test_what_is_promised_without_a_lease(host: Host) -> None:
    host.allocator.acquire("a")
    fixed = record("fixed", maps(BASE + S))
    with host.allocator.commit_record(fixed):
        host.allocator.instances.store.save(fixed)
    assert host.allocator.acquire("b").uid_start == BASE + 2 * S
    written = []
    with (
        pytest.raises(LeaseError, match="leased to the instance a"),
        host.allocator.commit_record(record("bad", maps(BASE + S - 1, 10))),
    ):
        written.append("bad")
    assert written == []
    host.allocator.instances.store.remove("fixed")
    host.allocator.release("fixed", fixed)
    # It is not new any more.
    host.allocator.release("a")
    assert host.allocator.acquire("c").uid_start == BASE + S
    assert host.allocator.acquire("d").uid_start == BASE


def test_an_old_database(host: Host) -> None:
    """One that was restored does not know the instances of since then."""
    host.allocator.acquire("a")
    host.save("web", maps(BASE + S))
    assert host.allocator.acquire("b").uid_start == BASE + 2 * S


def test_an_instance_keeps_what_it_had(host: Host) -> None:
    """The database was lost, or there was one range for all."""
    host.allocator.acquire("a")
    known = record("web", maps(BASE + S))
    host.run(4000, BASE + S, S)
    lease = host.allocator.acquire("web", UUID, known=known)
    assert lease.id_maps == known.id_maps
    for other in (
        record("x", maps(BASE)),  # Is leased.
        record("x", maps(BASE + 2 * S, S - 1)),  # Has another size.
        record("x", maps(BASE + 9 * S)),  # Is not in the pool.
        record("x", None),
    ):
        assert (
            host.allocator.acquire("x", known=other).uid_start == BASE + 2 * S
        )
        host.allocator.release("x")


@pytest.mark.parametrize("held_by", ["user", "record", "subordinate"])
def test_an_instance_does_not_keep_what_others_have(
    host: Host, held_by: str
) -> None:
    known = record("web", maps(BASE))
    host.save("web", known.id_maps)
    if held_by == "user":
        host.ids["user"] = replace(host.ids["user"], names={BASE + 7: "bob"})
    elif held_by == "record":
        # There was one range for all.
        host.save("other", maps(BASE))
    else:
        host.set_pool(f"lxc:{BASE}:{3 * S}\nbob:{BASE + S - 1}:1\n")
    lease = host.allocator.acquire("web", UUID, known=known)
    assert lease.uid_start == BASE + S


def test_a_tree_of_an_instance_without_a_lease(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    """Its IDs are not new when it is gone."""
    host.allocator.acquire("a")
    fixed = record(
        "fixed", maps(BASE + S), strategy=Strategy.CHOWN, rootfs=str(tmp_path)
    )
    with host.allocator.commit_record(fixed):
        host.allocator.instances.store.save(fixed)
    shifted(str(tmp_path), State(maps(BASE + S)))
    assert host.allocator.usage().waiting == ()
    host.allocator.instances.store.remove("fixed")
    host.allocator.release("fixed", fixed)
    assert {tree.path for tree in host.allocator.usage().waiting} == {
        str(tmp_path)
    }
    assert host.allocator.acquire("b").uid_start == BASE + 2 * S
    with pytest.raises(PoolExhaustedError, match=f"unshift {tmp_path}$"):
        host.allocator.acquire("c")
    shifted(str(tmp_path), None)
    assert host.allocator.acquire("c").uid_start == BASE + S


def test_other_maps_than_before(host: Host) -> None:
    before, after = record("x", maps(BASE)), record("x", maps(BASE + S))
    host.allocator.acquire("a", size=6)
    host.allocator.release("a")
    with host.allocator.commit_record(after, before):
        host.allocator.instances.store.save(after)
    assert host.allocator.acquire("b").uid_start == BASE + 2 * S
    assert host.allocator.acquire("c").uid_start == BASE


@pytest.mark.parametrize("size", [0, -5, 5, 2**32, True])
def test_sizes_that_are_none(host: Host, size: int) -> None:
    with pytest.raises(LeaseError, match=f"{size} is no number of IDs"):
        host.allocator.acquire("a", size=size)


def test_who_sees_all_ids_has_no_range(host: Host) -> None:
    whole = ((0, 0, 1), (1, 1, 2**32 - 2))
    host.processes.append(FakeProcess(4000, whole, whole))
    assert host.allocator.usage().pools.uid.holders == ()
    assert host.allocator.acquire("a").uid_start == BASE


def test_nobody_waits_for_libvirt_or_disks(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.set_pool(f"lxc:{BASE}:{2 * S}\n")
    use(host, "a", tmp_path)
    host.allocator.release("a")
    host.run(4000, BASE + S, S)
    asked = []

    def is_free(what: str) -> None:
        asked.append(what)
        fd = os.open(tmp_path / "state", os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)

    def getxattr(*_: object, **__: object) -> bytes:
        is_free("disk")
        raise OSError(errno.ENODATA, "no such attribute")

    def list_guests() -> list[Guest]:
        is_free("libvirt")
        return []

    monkeypatch.setattr(os, "getxattr", getxattr)
    monkeypatch.setattr(host.guests, "list", list_guests)
    assert host.allocator.acquire("b").uid_start == BASE
    assert asked == ["libvirt", "libvirt", "disk", "disk"]


def test_the_first_lease_of_all_while_a_record_is_written(host: Host) -> None:
    with (
        pytest.raises(LeaseError, match="leased to the instance a"),
        host.allocator.commit_record(record("fixed", maps(BASE))),
    ):
        # It does not see the record yet.
        host.allocator.acquire("a")
    assert [*host.starts()] == ["a"]


def test_hosts_without_leases_get_no_database(host: Host) -> None:
    with host.allocator.commit_record(record("fixed", maps(BASE))):
        pass
    host.allocator.release("fixed")
    assert host.allocator.find("fixed") is None
    assert not host.allocator.leases.exists


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Say what trees say of themselves."""
    states: dict[str, State | None] = {}

    def getxattr(path: str, name: str, *, follow_symlinks: bool) -> bytes:
        assert (name, follow_symlinks) == (STATE, False)
        if path not in states:
            raise PermissionError(errno.EACCES, "denied")
        state = states[path]
        if state is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return state.encode()

    monkeypatch.setattr(os, "getxattr", getxattr)
    return states.__setitem__


def use(host: Host, name: str, path: Path, how: str = "chown") -> None:
    """Lease a range, and be about to use something on disk with it."""
    lease = host.allocator.acquire(name)
    made = record(
        name, lease.id_maps, strategy=Strategy(how), rootfs=str(path)
    )
    with host.allocator.commit_record(made):
        pass


def test_what_is_shifted_is_not_leased_again(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    for state, is_free in (
        (State(maps(BASE)), False),
        (State(None, Work(maps(BASE), "keep")), False),
        (State(maps(BASE + S - 1, 10)), False),
        (State(maps(BASE + S)), True),
        (None, True),
    ):
        use(host, "a", tree)
        shifted(str(tree), state)
        # While it has the lease there is nothing to wait for.
        assert host.allocator.usage().waiting == ()
        host.allocator.release("a")
        if not is_free:
            with pytest.raises(PoolExhaustedError, match=f"unshift {tree}$"):
                host.allocator.acquire("a")
            assert {e.path for e in host.allocator.usage().waiting} == {
                str(tree)
            }
            shifted(str(tree), None)
        assert host.allocator.usage().free == 1
        assert host.allocator.acquire("a").uid_start == BASE
        with host.allocator.leases.read() as leases:
            assert leases.trees() == []
        host.allocator.release("a")


def test_trees_that_are_gone(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    """All that an instance ever had, whatever it has now."""
    host.set_pool(f"lxc:{BASE}:{S}\n")
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    image.touch()
    shifted(str(tree), State(maps(BASE)))
    use(host, "a", tree, "auto")
    use(host, "a", image)
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError, match=f"{image}, {tree}$"):
        host.allocator.acquire("a")
    tree.rename(tmp_path / "away")
    with pytest.raises(PoolExhaustedError, match=f"unshift {image}$"):
        host.allocator.acquire("a")
    image.unlink()
    assert host.allocator.acquire("a").uid_start == BASE


@pytest.mark.parametrize("how", ["idmapped", "overlay"])
def test_what_is_not_shifted_on_disk_is_nothing_to_wait_for(
    host: Host, tmp_path: Path, how: str
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    (tmp_path / "file").touch()
    use(host, "a", tmp_path, how)
    use(host, "a", tmp_path / "file", how)
    host.allocator.release("a")
    assert host.allocator.usage().waiting == ()
    assert host.allocator.acquire("b").uid_start == BASE


def test_a_volume_that_is_shifted(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    shifted(str(tmp_path), State(maps(BASE)))
    (tmp_path / "file").touch()
    lease = host.allocator.acquire("a")
    volumes = (
        Volume(str(tmp_path), "/a", "chown"),
        Volume(str(tmp_path / "file"), "/b", "none"),
    )
    with host.allocator.commit_record(
        record("a", lease.id_maps, volumes=volumes)
    ):
        pass
    host.allocator.release("a")
    assert {e.path for e in host.allocator.usage().waiting} == {str(tmp_path)}


def test_a_tree_that_is_shifted_by_hand(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    host.allocator.note_shift("/nowhere", maps(BASE))
    assert not host.allocator.leases.exists
    host.allocator.acquire("a")
    host.allocator.note_shift(str(tmp_path), maps(BASE, 10))
    shifted(str(tmp_path), State(maps(BASE, 10)))
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError, match=f"unshift {tmp_path}$"):
        host.allocator.acquire("b")


def test_a_tree_that_cannot_be_read_counts_as_shifted(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    use(host, "a", tmp_path)
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError):
        host.allocator.acquire("a")


def test_releasing_by_hand(host: Host) -> None:
    host.allocator.release_unused("a")
    lease = host.allocator.acquire("a")
    host.run(4000, lease.uid_start + 5, 1)
    with pytest.raises(LeaseError, match="in use by the running process 4000"):
        host.allocator.release_unused("a")
    host.processes.clear()
    host.save("a", maps(lease.uid_start))
    with pytest.raises(LeaseError, match="until it is destroyed or released"):
        host.allocator.release_unused("a")
    host.allocator.instances.store.remove("a")
    host.allocator.release_unused("a")
    assert host.allocator.find("a") is None


def test_as_it_was(host: Host) -> None:
    assert host.allocator.restore_lease("a", None)
    before = host.allocator.acquire("a")
    host.allocator.acquire("a", UUID)
    assert not host.allocator.restore_lease("a", before)
    assert host.allocator.find("a") == before
    assert host.allocator.acquire("a", OTHER_UUID).uuid == OTHER_UUID
    # Not while it is promised to it.
    host.save("a", before.id_maps)
    assert not host.allocator.restore_lease("a", None)
    assert host.allocator.find("a") == replace(before, uuid=OTHER_UUID)
    host.allocator.instances.store.remove("a")
    assert host.allocator.restore_lease("a", None)
    assert host.allocator.find("a") is None


@dataclass
class FakeServices:
    """Services with what the collection needs."""

    allocator: LeaseAllocator
    guests: FakeGuests
    cleared: list[str] = field(default_factory=list)
    error: Exception | None = None
    meanwhile: Callable[[], object] = int

    @property
    def store(self) -> InstanceStore:
        return self.allocator.instances.store

    @property
    def releaser(self) -> "FakeServices":
        return self

    def release(self, name: str, give_back: Callable[[str], bool]) -> bool:
        if self.error is not None:
            raise self.error
        self.cleared.append(name)
        self.meanwhile()
        return give_back(name)


Collect = Callable[[float], dict[str, tuple[str, str]]]


@pytest.fixture
def manager(host: Host) -> FakeServices:
    return FakeServices(host.allocator, host.guests)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Set the time, in the first place."""
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def collect(
    manager: FakeServices, grace_period: float = 60
) -> dict[str, tuple[str, str]]:
    found = gc.collect_garbage(cast(Services, manager), grace_period)
    return {e.lease.instance: (e.outcome, e.reason) for e in found}


def test_an_orphan(
    host: Host, manager: FakeServices, clock: list[float]
) -> None:
    host.allocator.acquire("by-name")
    host.allocator.acquire("by-uuid", UUID)
    host.guests.found = [
        Guest("by-name", OTHER_UUID, "stopped", None),
        Guest("renamed", UUID, "running", 77),
    ]
    assert collect(manager) == {}
    host.guests.found = []
    waiting = ("waiting", "libvirt has not known it for 0 seconds")
    assert collect(manager) == {"by-name": waiting, "by-uuid": waiting}
    lease = host.allocator.find("by-name")
    assert lease is not None
    assert lease.unknown_since == 1000
    clock[0] = 1059
    assert collect(manager)["by-name"] == (
        "waiting",
        "libvirt has not known it for 59 seconds",
    )
    clock[0] = 1060
    gone = ("returned", "libvirt does not know it")
    assert collect(manager) == {"by-name": gone, "by-uuid": gone}
    assert manager.cleared == ["by-name", "by-uuid"]
    assert collect(manager) == {}


def test_no_period_needs_no_second_look(
    host: Host, manager: FakeServices
) -> None:
    host.allocator.acquire("a")
    assert collect(manager, 0)["a"][0] == "returned"


def test_a_domain_that_comes_back(
    host: Host, manager: FakeServices, clock: list[float]
) -> None:
    host.allocator.acquire("a")
    assert collect(manager)["a"][0] == "waiting"
    host.guests.found = [Guest("a", UUID, "stopped", None)]
    clock[0] = 5000
    assert collect(manager) == {}
    host.guests.found = []
    # The period begins anew.
    assert collect(manager)["a"][0] == "waiting"


def test_a_domain_that_is_about_to_be(
    host: Host, manager: FakeServices, clock: list[float]
) -> None:
    host.allocator.acquire("a")
    collect(manager)
    clock[0] = 5000
    host.allocator.acquire("a")
    assert collect(manager)["a"][0] == "waiting"
    clock[0] = 9000
    with host.allocator.commit_record(record("a", maps(BASE))):
        pass
    assert collect(manager)["a"][0] == "waiting"


def test_a_clock_that_goes_back(
    host: Host, manager: FakeServices, clock: list[float]
) -> None:
    """The period begins anew, and ends."""
    host.allocator.acquire("a")
    collect(manager)
    clock[0] = 10
    reason = "libvirt has not known it for 0 seconds"
    assert collect(manager)["a"] == ("waiting", reason)
    clock[0] += gc.GRACE_PERIOD
    assert collect(manager)["a"][0] == "returned"


def test_somebody_elses_domain_of_that_name(
    host: Host, manager: FakeServices
) -> None:
    host.allocator.acquire("a", UUID)
    host.guests.found = [Guest("a", OTHER_UUID, "running", 77)]
    assert collect(manager, 0)["a"][0] == "returned"


def test_orphans_that_are_kept(host: Host, manager: FakeServices) -> None:
    for name, values in (
        ("over", {"strategy": Strategy.OVERLAY}),
        ("packed", {"archive": "/srv/x.tar"}),
    ):
        lease = host.allocator.acquire(name)
        host.save(name, lease.id_maps, **values)
    running = host.allocator.acquire("running")
    host.run(4000, running.uid_start, 1)
    found = collect(manager, 0)
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
    assert manager.cleared == []
    assert len(host.starts()) == 3


def test_an_orphan_that_is_busy(host: Host, manager: FakeServices) -> None:
    lease = host.allocator.acquire("a")
    host.save("a", lease.id_maps)
    manager.error = RootfsError("/run/x", "is busy")
    assert collect(manager, 0) == {"a": ("kept", "/run/x: is busy")}
    manager.error = None
    assert collect(manager, 0)["a"][0] == "returned"


def test_a_damaged_record_does_not_stop_the_others(
    host: Host, manager: FakeServices, tmp_path: Path
) -> None:
    for name in "abc":
        host.allocator.acquire(name)
    host.save("b", maps(BASE + S))
    (tmp_path / "state/instances/b.json").write_text("{")
    found = collect(manager, 0)
    assert found["b"][0] == "kept"
    assert "is damaged" in found["b"][1]
    assert (found["a"][0], found["c"][0]) == ("returned", "returned")


def test_nothing_without_libvirt(host: Host, manager: FakeServices) -> None:
    host.allocator.acquire("a")
    host.guests.is_there = False
    with pytest.raises(LibvirtError):
        collect(manager, 0)
    assert [*host.starts()] == ["a"]


def test_one_that_was_released_meanwhile(
    host: Host, manager: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.allocator.acquire("a")
    host.allocator.acquire("b")
    lock = InstanceStore.lock

    @contextmanager
    def slow_lock(store: InstanceStore, name: str) -> Iterator[None]:
        with lock(store, name):
            if name == "a":
                host.allocator.release("a")
            else:
                host.guests.found = [Guest("b", UUID, "running", 7)]
            yield

    monkeypatch.setattr(InstanceStore, "lock", slow_lock)
    assert collect(manager, 0) == {}
    assert [*host.starts()] == ["b"]


def test_one_that_is_asked_for_again_meanwhile(
    host: Host, manager: FakeServices
) -> None:
    lease = host.allocator.acquire("a")
    manager.meanwhile = lambda: host.allocator.acquire("a")
    assert collect(manager, 0) == {}
    assert host.allocator.find("a") == lease


def test_libvirt_is_asked_after_it_was_noted(
    host: Host, manager: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner of a domain who asks for the lease before loses nothing."""
    lease = host.allocator.acquire("a")
    note = LeaseAllocator.mark_missing

    def slow_note(
        self: LeaseAllocator, instance: str, now: int
    ) -> Lease | None:
        host.guests.found = [Guest("a", UUID, "stopped", None)]
        host.allocator.acquire("a")
        return note(self, instance, now)

    monkeypatch.setattr(LeaseAllocator, "mark_missing", slow_note)
    assert collect(manager, 0) == {}
    assert host.allocator.find("a") == lease


def test_room(host: Host) -> None:
    host.set_pool(f"lxc:{BASE}:{5 * S}\n", f"lxc:{BASE}:{4 * S}\n")
    assert host.allocator.usage().free == 4
    host.allocator.acquire("a")
    host.allocator.acquire("b", size=10)
    assert (host.allocator.usage().free, host.allocator.usage().size) == (2, S)
    host.allocator.release("a")
    assert host.allocator.usage().free == 3
    host.run(4000, BASE + 3 * S, 1)
    assert host.allocator.usage().free == 2


def test_what_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, allocator.__name__)
    host.allocator.acquire("a")
    host.allocator.release("a")
    host.allocator.release("a")
    assert caplog.messages == [
        f"a: leased {S} IDs, users from {BASE} on, groups from {BASE} on",
        f"a: released {S} IDs, users from {BASE} on, groups from {BASE} on",
    ]


def test_leases_have_no_default_owner(host: Host) -> None:
    assert host.allocator.acquire("a") == Lease(
        "a",
        None,
        BASE,
        BASE,
        S,
        cast(Lease, host.allocator.find("a")).acquired,
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
    host.allocator.usage()
    (warning,) = caplog.messages
    assert warning.startswith(
        f"{file} has no leases, and instances have IDs of the pool of lxc: "
        "a, b, c, elsewhere; if it was lost, restore a backup"
    )
    host.allocator.acquire("a")
    assert len(caplog.messages) == 2
    host.allocator.acquire("b")
    host.allocator.usage()
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
    assert host.allocator.usage().free == 0
    with pytest.raises(InstanceError, match="newer version"):
        host.allocator.acquire("static")
    with pytest.raises(InstanceError, match="is damaged"):
        host.allocator.release_unused("web")
    assert host.starts() == {"web": BASE + S, "c": BASE + 2 * S}


def test_nobody_keeps_what_a_damaged_record_names(
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
        inventory.check_unused([PathUse(path, how, None, **more)], besides="x")

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


@dataclass
class Directory:
    """A directory service that lists nobody."""

    names: dict[int, str] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def find(self, number: int) -> object:
        self.asked.append(number)
        name = self.names[number]
        return SimpleNamespace(pw_name=name, gr_name=name)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    service = Directory()
    file = tmp_path / "nsswitch.conf"
    file.write_text("# by hand\npasswd: files sss [!UNAVAIL=return]\n")
    monkeypatch.setattr(owners, "NSSWITCH", file)
    monkeypatch.setattr(pwd, "getpwuid", service.find)
    monkeypatch.setattr(grp, "getgrgid", service.find)
    return service


@pytest.mark.parametrize(
    "number",
    [BASE, BASE + S - 1, BASE + (S - 1) * 7 // 15, TWO_DOMAINS + 500],
)
def test_users_that_are_not_listed_are_not_leased_over(
    host: Host, service: Directory, number: int
) -> None:
    service.names[number] = "carol"
    start = (number - BASE) // S * S + BASE
    for name in "abc":
        if start == BASE and name == "c":
            with pytest.raises(
                PoolExhaustedError, match=rf"carol \({number}\)"
            ):
                host.allocator.acquire(name)
            break
        lease = host.allocator.acquire(name)
        assert number not in lease.ids("uid")
        assert number not in lease.ids("gid")


def test_nobody_waits_for_a_directory_service(
    host: Host, service: Directory, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)

    def find(number: int) -> object:
        service.asked.append(number)
        fd = os.open(tmp_path / "state", os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        raise KeyError

    service.find = find  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pwd, "getpwuid", find)
        patch.setattr(grp, "getgrgid", find)
        host.allocator.acquire("a")
    assert 2 <= len(service.asked) <= 64
    # What it has is not asked about again.
    before = len(service.asked)
    host.allocator.acquire("a")
    assert len(service.asked) == before


def test_a_pool_within_a_directory(host: Host, service: Directory) -> None:
    host.set_pool(f"lxc:{BASE}:{100 * S}\n")
    service.names = dict.fromkeys(range(BASE, BASE + 100 * S, S), "many")
    with pytest.raises(PoolExhaustedError, match="in each of 17 ranges"):
        host.allocator.acquire("a")
    assert host.starts() == {}


def test_a_host_whose_users_are_all_listed(
    host: Host, service: Directory, tmp_path: Path
) -> None:
    for text in ("", "passwd: files systemd\ngroup: compat # sss\n"):
        (tmp_path / "nsswitch.conf").write_text(text)
        host.allocator.acquire(f"a{len(text)}")
    assert service.asked == []
