# SPDX-License-Identifier: Apache-2.0
"""Leases given, on a host in memory."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    LeaseError,
    PoolExhaustedError,
    PrerequisiteError,
)
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases.pool import Pools
from lxc_userns.leases.running import RunningIdMap
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.libvirtd.status import RunningDomain
from lxc_userns.rootfs.shifting.state import State
from lxc_userns.spec.strategy import Strategy
from tests.unit.leases.lease_host import (
    BASE,
    OTHER_UUID,
    UUID,
    FakeProcess,
    FakeRunning,
    Host,
    S,
    Shift,
    maps,
    record,
    use,
)


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
    with pytest.raises(
        LeaseError, match=f"allocated, as the instance {UUID}; call"
    ):
        host.allocator.acquire("by-hand", OTHER_UUID)
    with pytest.raises(LeaseError, match=r"other: .*uuid"):
        host.allocator.acquire("other", UUID)


def test_sizes(host: Host) -> None:
    assert host.allocator.acquire("small", size=10).count == 10
    assert host.allocator.acquire("large", size=2 * S).uid_start == BASE + S
    assert host.allocator.acquire("large", size=2 * S).count == 2 * S
    # What the configuration says now does not matter to them.
    host.reach(size=5)
    assert host.allocator.acquire("small").count == 10
    host.reach(size=S)
    with pytest.raises(
        LeaseError, match="with a lease of 10 IDs, not of 11; call"
    ):
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
    host.reach(owner="")
    without = host.allocator
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
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    lease = host.allocator.acquire("a")

    def fail(_owner: str) -> Pools:
        raise PrerequisiteError("getsubids is not installed")

    host.reach(read=fail)
    # Who has a lease does not depend on it.
    assert host.allocator.acquire("a") == lease
    assert caplog.messages == ["getsubids is not installed"]
    with pytest.raises(PrerequisiteError):
        host.allocator.acquire("b")


def test_ids_of_a_lease_that_others_have_got(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    lease = host.allocator.acquire("a")
    assert not caplog.records
    host.set_pool(f"lxc:{BASE}:{2 * S}\nalice:{BASE + 5}:10\n")
    assert host.allocator.acquire("a") == lease
    said = caplog.messages
    assert len(said) == len({*said}) == 2
    for kind, text in zip(("user", "group"), said, strict=True):
        assert text == (
            "a: of its lease (65536 IDs, users from 2000000000 on, groups "
            "from 2000000000 on) others have IDs by now: the subordinate "
            f"{kind} IDs of alice (2000000005:10); give these others, or "
            "release the instance"
        )
    # Others get what is next.
    assert host.allocator.acquire("b").uid_start == BASE + S


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
    assert said.endswith("; the line is ignored")


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
    assert len(host.allocator.pool.usage().pools.uid.holders) == 2


def test_what_has_more_than_a_lease_is_told(host: Host) -> None:
    """It may have IDs of the next range, too."""
    host.allocator.acquire("a")
    host.run(4000, BASE, 2 * S)
    assert host.allocator.pool.usage().free == 1
    assert host.allocator.acquire("b").uid_start == BASE + 2 * S


def test_what_calls_itself_something_odd(host: Host) -> None:
    host.run(4000, BASE, S)
    host.processes[0].name = "a\x1b[2Jb\n"
    (holder,) = host.allocator.pool.usage().pools.uid.holders
    shown = r"a\x1b[2Jb\n"
    assert holder.name == f"the running process 4000 ({shown}) ({BASE}:{S})"
    gone = [RunningIdMap(4999, "uid", range(BASE, BASE + S))]
    (named,) = host.allocator.pool.processes.with_names(
        gone, host.allocator.instances.running
    )
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


def test_what_is_no_container_is_named_by_its_number(host: Host) -> None:
    """Also while libvirtd does not answer."""
    host.guests.is_there = False
    host.run(5000, BASE, S, parent=4999)
    assert host.allocator.acquire("a").uid_start == BASE + S
    assert (
        "process 5000"
        in host.allocator.pool.usage().pools.uid.describe_holders()
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
    assert host.allocator.pool.usage().waiting == ()
    host.allocator.instances.store.remove("fixed")
    host.allocator.release("fixed", fixed)
    assert {tree.path for tree in host.allocator.pool.usage().waiting} == {
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
    with pytest.raises(LeaseError, match=f"range_size {size}: expected 6.."):
        host.allocator.acquire("a", size=size)


def test_who_sees_all_ids_has_no_range(host: Host) -> None:
    whole = ((0, 0, 1), (1, 1, 2**32 - 2))
    host.processes.append(FakeProcess(4000, whole, whole))
    assert host.allocator.pool.usage().pools.uid.holders == ()
    assert host.allocator.acquire("a").uid_start == BASE


def test_no_one_waits_for_the_kernel_or_disks(
    host: Host, tmp_path: Path
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

    def read_state(path: str) -> bytes:
        assert path == str(tmp_path)
        is_free("disk")
        raise OSError(errno.ENODATA, "no such attribute")

    class Running(FakeRunning):
        def list(self) -> Iterator[RunningDomain]:
            is_free("kernel")
            return iter(())

    instances = replace(host.allocator.instances, running=Running(host.guests))
    host.reach(read_state=read_state, instances=instances)
    assert host.allocator.acquire("b").uid_start == BASE
    assert asked == ["kernel", "kernel", "disk", "disk"]


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


def test_room(host: Host) -> None:
    host.set_pool(f"lxc:{BASE}:{5 * S}\n", f"lxc:{BASE}:{4 * S}\n")
    assert host.allocator.pool.usage().free == 4
    host.allocator.acquire("a")
    host.allocator.acquire("b", size=10)
    assert (
        host.allocator.pool.usage().free,
        host.allocator.pool.usage().size,
    ) == (2, S)
    host.allocator.release("a")
    assert host.allocator.pool.usage().free == 3
    host.run(4000, BASE + 3 * S, 1)
    assert host.allocator.pool.usage().free == 2


def test_what_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, allocator.__name__)
    host.allocator.acquire("a")
    host.allocator.release("a")
    host.allocator.release("a")
    assert caplog.messages == [
        f"a: leased {S} IDs, users from {BASE} on, groups from {BASE} on",
        f"a: released {S} IDs, users from {BASE} on, groups from {BASE} on",
    ]
