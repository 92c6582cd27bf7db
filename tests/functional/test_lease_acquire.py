# SPDX-License-Identifier: Apache-2.0
"""Leases, by the command line: who gets which IDs, and who does not."""

import json
from pathlib import Path

import pytest

from tests.functional.command_line import BASE, CommandLine
from tests.functional.lease_host import (
    OWNER,
    SIZE,
    WHOLE,
    HostFiles,
    acquire,
    acquire_at_once,
    at_once,
    both,
    cli,
    configure,
    container_cli,
    host_files,
    nth,
    run,
    running_with,
    starts,
    summary,
)

__all__ = ["cli", "container_cli", "host_files"]

# Also those without containers: what is mounted over files of /etc is to be
# seen in a mount namespace of our own alone.
pytestmark = pytest.mark.needs("containers")


def test_acquire_list_and_release(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(2)
    lease = cli.json("lease", "acquire", "web")
    assert lease == {
        "instance": "web",
        "uid_start": BASE,
        "gid_start": BASE,
        "count": SIZE,
    }
    again, table, listed = at_once(
        cli, "lease acquire web -f json", "lease list", "lease list -f json"
    )
    assert again.json() == lease
    assert summary(table) == [
        f"1 held, 1 free: leases of {SIZE} IDs from the pool of {OWNER}"
    ]
    assert table.out.splitlines()[3].split()[1:8:2] == [
        "web", str(BASE), str(BASE), str(SIZE),
    ]  # fmt: skip
    (shown,) = listed.json()
    assert lease.items() <= shown.items()
    assert (shown["state"], shown["uuid"]) == ("held", None)
    for _ in range(2):
        assert cli("lease", "release", "web").code == 0
    assert cli.json("lease", "list") == []


def test_a_pool_gives_as_many_leases_as_fit(
    cli: CommandLine, host_files: HostFiles
) -> None:
    lines = [
        # At multiples of the size where that costs none, else from the start.
        (5001, 2000),
        (10500, 1500),
        # One range in two lines, of which no ID counts twice.
        (15000, 1500),
        (16500, 500),
        (15000, 1500),
        (15300, 1000),
        (20000, 999),
    ]
    places = [5001, 6001, 11000, 15000, 16000]
    host_files.give(
        *(f"{OWNER}:{BASE + start}:{count}" for start, count in lines)
    )
    # All at the same time: no two get the same.
    given, errors = acquire_at_once(cli, *"abcdef")
    assert given == [(BASE + place, BASE + place) for place in places]
    (error,) = errors
    assert error.endswith(
        f": no range of {SIZE} user IDs is left in the pool of {OWNER}: "
        "5000 of its 6499 IDs are leased"
    )


def test_pools_of_users_and_groups_that_differ(
    cli: CommandLine, host_files: HostFiles
) -> None:
    other = BASE + 500_000
    host_files["subuid"].write_text(f"{OWNER}:{BASE}:{2 * SIZE}\n")
    host_files["subgid"].write_text(f"{OWNER}:{other}:{SIZE}\n")
    # The smaller one decides.
    given, errors = acquire_at_once(cli, "a", "b")
    assert given == [(BASE, other)]
    (error,) = errors
    assert f"no range of {SIZE} group IDs is left in the pool" in error


def test_an_owner_by_name_and_by_number(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.append("passwd", f"{OWNER}:x:4242:4242::/:/bin/false")
    host_files.give(
        f"4242:{nth(0)}:{SIZE}",
        f"{OWNER}:{nth(5)}:{SIZE}",
        f"14242:{nth(7)}:{SIZE}",
        f"{OWNER}2:{nth(9)}:{SIZE}",
    )
    assert acquire_at_once(cli, "a", "b") == (both(0, 5), [])
    configure(cli, owner="4242")
    table = cli("lease", "list")
    assert "outside the pool" not in table.out
    assert summary(table) == [
        f"2 held, 0 free: leases of {SIZE} IDs from the pool of 4242"
    ]


def test_where_no_one_was_and_then_the_longest_released(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(3)
    assert [acquire(cli, name) for name in "ab"] == both(0, 1)
    for name in "ba":
        assert cli("lease", "release", name).code == 0
    # Not the first of all, which was released last.
    assert acquire_at_once(cli, "c", "d") == (both(1, 2), [])


def test_leases_of_different_sizes(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(3)
    acquire(cli, "a")
    configure(cli, size=1500)
    acquire(cli, "b")
    assert cli("lease", "release", "a").code == 0
    configure(cli, size=700)
    table, again = at_once(cli, "lease list", "lease acquire b -f json")
    # What it has keeps its size.
    assert again.json()["count"] == 1500
    assert summary(table)[0].startswith("1 held, 1 free: leases of 700 IDs ")
    given, errors = acquire_at_once(cli, "x", "y")
    assert (len(given), len(errors)) == (1, 1)
    end = BASE
    for lease in cli.json("lease", "list"):
        assert starts(lease)[0] == starts(lease)[1] >= end
        end = starts(lease)[0] + lease["count"]
    assert end <= nth(3)


def test_what_is_no_name(cli: CommandLine, host_files: HostFiles) -> None:
    host_files.give_ranges(1)
    commands = (("lease", "acquire", name) for name in ("", " ", "a b"))
    for result in at_once(cli, "lease release ../x", *commands):
        assert "not a name: a letter or digit is needed" in result.error()
    assert not cli.state.exists()


def test_a_range_with_one_id_of_somebody_else_is_not_leased(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(4)
    # Next to the pool, no one is in the way.
    host_files.append("passwd", f"bob:x:{nth(0) - 1}:100::/:/bin/false")
    host_files.append("group", f"bob:x:{nth(4)}:")
    host_files.append("subuid", f"bob:{nth(0) - 9}:9", f"bob:{nth(4)}:9")
    # Those in the way have the last user ID and the first group ID of the
    # first range and of the second; no 1000 are left between any of them.
    host_files.append("passwd", f"eve:x:{nth(1) - 1}:100::/:/bin/false")
    host_files.append("subuid", f"eve:{nth(2) - 1}:1")
    host_files.append("subgid", f"eve:{nth(0) - 99}:100")
    host_files.append("group", f"eve:x:{nth(1)}:")
    with running_with(nth(2), 1) as process:
        runs = f"the running process {process.pid} (cat) ({nth(2)}:1)"
        users = (
            f"held by: user eve ({nth(1) - 1}), the subordinate user IDs of "
            f"eve ({nth(2) - 1}:1), {runs}"
        )
        groups = (
            f"held by: group eve ({nth(1)}), the subordinate group IDs of eve "
            f"({nth(0) - 99}:100), {runs}"
        )
        assert summary(cli("lease", "list")) == [
            f"0 held, 1 free: leases of {SIZE} IDs from the pool of {OWNER}",
            f"not leased, user IDs {users}",
            f"not leased, group IDs {groups}",
        ]
        given, errors = acquire_at_once(cli, "a", "b")
        assert given == both(3)
        (error,) = errors
        assert f"no range of {SIZE} user IDs is left in the pool" in error
        assert error.endswith(f"; some are {users.replace('by:', 'by')}")
    assert acquire(cli, "c") == both(2)[0]


def test_a_group_in_the_middle_of_a_range(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(2)
    host_files.append("group", f"eve:x:{nth(0) + 500}:")
    given, errors = acquire_at_once(cli, "a", "b")
    # The user IDs are the same for as long as that is possible.
    assert given == both(1)
    (error,) = errors
    assert f"no range of {SIZE} group IDs is left in the pool" in error
    assert error.endswith(f"; some are held by group eve ({nth(0) + 500})")


def test_a_process_with_ids_of_a_lease_and_of_the_next_range(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(3)
    assert acquire(cli, "a") == both(0)[0]
    with running_with(nth(0), 2 * SIZE) as process:
        error = cli("lease", "release", "a").error()
        user = f"the running process {process.pid} (cat)"
        assert error.startswith(f"a: its lease is in use by {user} ")
        lines = summary(cli("lease", "list"))
        assert lines[0].startswith("1 held, 1 free: ")
        assert user in lines[1]
        assert acquire(cli, "b") == both(2)[0]


def test_a_name_of_a_process_does_not_pass_for_output(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(1)
    with running_with(nth(0), 1, "x\n9 held, 9 free\x1b[2J"):
        table, acquired = at_once(cli, "lease list", "lease acquire a")
    assert [line.partition(" held")[0] for line in summary(table)] == [
        "0", "not leased, user IDs", "not leased, group IDs",
    ]  # fmt: skip
    assert "\x1b" not in table.out + acquired.error()


def test_a_container_with_maps_of_its_own(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(3, WHOLE)
    static = CommandLine(
        cli.config.with_name("static.conf"), cli.state, cli.run
    )
    # Part of the first range and of the second.
    maps = f"{BASE + 100}:{WHOLE}"
    static.config.write_text(
        f"[libvirt]\nuid_maps = 0:{maps}\ngid_maps = 0:{maps}\n[lxc_userns]\n"
        f"state_path = {cli.state}\nrun_path = {cli.run}\n"
    )
    assert run(static, "own", busybox_rootfs) == (BASE + 100, BASE + 100)
    # As far as can be told, the leases may have been lost.
    result = cli("lease", "acquire", "a", "-f", "json")
    assert starts(json.loads(result.out)) == both(2, size=WHOLE)[0]
    assert "has no leases, and instances have IDs" in result.err
    error = cli("lease", "acquire", "b").error()
    assert f"held by the instance own ({maps})" in error
    # Nor while it is stopped.
    assert cli("container", "stop", "own", "--timeout", "0").code == 0
    error = cli("lease", "acquire", "c").error()
    assert error.endswith(f"held by the instance own ({maps})")
    assert static("container", "destroy", "own").code == 0
    assert acquire(cli, "c") == both(0, size=WHOLE)[0]
    argv = ["container", "run", "own", "--rootfs", str(busybox_rootfs)]
    assert "are leased to the instance c (" in static(*argv).error()


def test_a_container_of_somebody_else(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    """It has no record, and still the kernel and libvirt know it."""
    host_files.give_ranges(2, WHOLE)
    other = CommandLine.make(
        container_cli.config.parent.parent, container_cli.run
    )
    assert other.state != container_cli.state
    assert run(other, "own", busybox_rootfs) == (BASE, BASE)
    try:
        (line,) = summary(container_cli("lease", "list"))[1:2]
        assert line == (
            "not leased, user IDs held by: the running container own "
            f"({BASE}:{WHOLE})"
        )
        assert acquire(container_cli, "a") == both(1, size=WHOLE)[0]
    finally:
        assert other("container", "destroy", "own").code == 0
