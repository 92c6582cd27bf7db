# SPDX-License-Identifier: Apache-2.0
"""Leases, by the command line: who gets which IDs, and who does not."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional import images
from tests.functional.command_line import BASE, CommandLine, Result
from tests.functional.guest import ask
from tests.functional.lease_host import (
    OWNER,
    SIZE,
    WHOLE,
    WITHOUT_LIBVIRT,
    HostFiles,
    acquire,
    acquire_at_once,
    at_once,
    configure,
    findings,
    held,
    id_maps_of,
    make_command_line,
    mounted_host_files,
    nth,
    running_with,
    starts,
    summary,
)

# Also those without containers: what is mounted over files of /etc is to be
# seen in a mount namespace of our own alone.
pytestmark = pytest.mark.needs("containers")

# Its container ends at once, for it heeds what libvirt sends first.
INIT = "/bin/sh -c 'trap exit TERM; sleep 1000 & wait'"
ADVICE = re.compile(r"add the line (?P<line>\S+) to /etc/(?P<name>\w+)")


@pytest.fixture
def host_files(
    libvirt_connection: libvirt.virConnect, tmp_path: Path
) -> Iterator[HostFiles]:
    """Files of the host, ours to change."""
    with mounted_host_files(tmp_path / "etc") as files:
        yield files


@pytest.fixture
def cli(
    host_files: HostFiles, tmp_path: Path, reachable_path: Path
) -> CommandLine:
    """The program, for leases of 1000 IDs; its pool is still empty."""
    return make_command_line(tmp_path, reachable_path / "run")


@pytest.fixture
def container_cli(
    cli: CommandLine, libvirt_connection: libvirt.virConnect
) -> Iterator[CommandLine]:
    """The same for leases of 65536 IDs; no container is left at the end."""
    configure(cli, size=WHOLE)
    yield cli
    records = cli.state.glob("instances/*.json")
    commands = (f"container destroy {record.stem}" for record in records)
    assert {each.code for each in at_once(cli, *commands)} <= {0}
    for domain in libvirt_connection.listAllDomains():
        with suppress(libvirt.libvirtError):
            domain.destroy()
        with suppress(libvirt.libvirtError):
            domain.undefine()
    assert cli.mounts() == []


def both(*numbers: int, size: int = SIZE) -> list[tuple[int, int]]:
    """Where leases begin that have the same user and group IDs."""
    return [(nth(number, size), nth(number, size)) for number in numbers]


def run(
    cli: CommandLine, name: str, rootfs: Path, *options: str
) -> tuple[int, int]:
    """Run a container: where its IDs begin, as the kernel shows it."""
    argv = ["container", "run", name, "--rootfs", str(rootfs)]
    return start_of(cli.json(*argv, "--init", INIT, *options))


def start_of(container: dict[str, Any]) -> tuple[int, int]:
    """Where the IDs of a container begin, as the kernel shows it."""
    uid_map, gid_map = id_maps_of(container["init_pid"])
    assert uid_map[::2] == gid_map[::2] == [0, WHOLE]
    return uid_map[1], gid_map[1]


def owners(tree: Path) -> dict[str, tuple[int, int]]:
    """Return the owners in a tree."""
    found = {}
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(tree))] = (status.st_uid, status.st_gid)
    return found


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


def test_where_nobody_was_and_then_the_longest_released(
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
    # Next to the pool, nobody is in the way.
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


NO_IDS = f"{OWNER} has no subordinate {{kind}} IDs in {{file}}"


@pytest.mark.parametrize(
    ("users", "groups", "wrong", "reason"),
    [
        ([], [], ["subuid", "subgid"], NO_IDS),
        ([(OWNER, 0, SIZE)], [], ["subgid"], NO_IDS),
        (
            [(OWNER, 0, 999)],
            [(OWNER, 0, 999)],
            ["subuid", "subgid"],
            f"the 999 subordinate {{kind}} IDs of {OWNER} in {{file}} have no "
            "room for 1000",
        ),
        (
            [(OWNER, 0, 2000), ("eve", 500, 1000)],
            [(OWNER, 0, 2000), ("eve", 2500, 1000)],
            ["subuid"],
            f"the 2000 subordinate {{kind}} IDs of {OWNER} in {{file}} have "
            "no room for 1000 beside the subordinate {kind} IDs of eve "
            f"({BASE + 500}:1000)",
        ),
    ],
)
def test_advice_is_followed_to_the_letter(
    cli: CommandLine,
    host_files: HostFiles,
    users: list[tuple[str, int, int]],
    groups: list[tuple[str, int, int]],
    wrong: list[str],
    reason: str,
) -> None:
    for name, lines in {"subuid": users, "subgid": groups}.items():
        for owner, start, count in lines:
            host_files.append(name, f"{owner}:{BASE + start}:{count}")
    error = cli("lease", "acquire", "a").error()
    advice = {each["name"]: each["line"] for each in ADVICE.finditer(error)}
    assert [*advice] == wrong
    kinds = {"subuid": "user", "subgid": "group"}
    told = (
        reason.format(kind=kinds[name], file=f"/etc/{name}")
        + f"; add the line {line} to /etc/{name}"
        for name, line in advice.items()
    )
    assert error == f"[lxc_userns] subid_owner = {OWNER}: {'; '.join(told)}"
    for name, line in advice.items():
        host_files.append(name, line)
    check, acquired = at_once(cli, "config check -f json", "lease acquire a")
    assert findings(check, 0)
    assert acquired.code == 0


def problems(check: Result) -> list[str]:
    """Return the problems that ``config check`` finds."""
    return [
        each["message"]
        for each in findings(check, 1)
        if each["severity"] == "problem"
    ]


def test_checks_of_a_pool(cli: CommandLine, host_files: HostFiles) -> None:
    commands = "config check -f json", "host check -f json"
    config, host = at_once(cli, *commands)
    check = pool_check(findings(host, 1))
    assert check["status"] == "FAIL"
    told = zip(*map(parted, problems(config)), strict=True)
    assert [check["message"], check["remedy"]] == [*map("; ".join, told)]
    host_files.give_ranges(3)
    host_files.append("subgid", f"eve:{nth(1)}:1")
    config, host = at_once(cli, *commands)
    check = pool_check(json.loads(host.out))
    assert check == {
        "check": "pool",
        "status": "PASS",
        "message": f"the subordinate IDs of {OWNER} give 2 leases of {SIZE}",
        "remedy": "",
    }
    assert [
        (each["severity"], each["message"])
        for each in findings(config, 0)
        if each["option"] == "[lxc_userns] subid_owner"
    ] == [
        ("info", f"user IDs {nth(0)}-{nth(3) - 1} are in the pool"),
        ("info", f"the pool has user IDs for 3 leases of {SIZE}"),
        ("info", f"group IDs {nth(0)}-{nth(3) - 1} are in the pool"),
        ("info", f"the pool has group IDs for 2 leases of {SIZE}"),
        (
            "warning",
            "of the pool's group IDs, some are not leased, for they are held "
            f"by the subordinate group IDs of eve ({nth(1)}:1)",
        ),
    ]


def parted(problem: str) -> tuple[str, str]:
    """Split a text into what is wrong and what to do."""
    reason, _, remedy = problem.partition("; ")
    return reason, remedy


def pool_check(checks: list[dict[str, str]]) -> dict[str, str]:
    """Return the check of the pool by ``host check``."""
    (check,) = (each for each in checks if each["check"] == "pool")
    return check


def test_one_of_the_files_is_not_there(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(1)
    etc = shutil.copytree(host_files.directory, cli.config.with_name("etc2"))
    (etc / "subgid").unlink()
    prefix = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
        'mount --bind "$0" /etc; exec "$@"',
        str(etc),
    )
    error = cli("lease", "acquire", "a", prefix=prefix).error()
    assert f"{OWNER} has no subordinate group IDs in /etc/subgid" in error
    assert "user IDs" not in error


def test_malformed_lines_are_told_and_not_heeded(
    cli: CommandLine, host_files: HostFiles
) -> None:
    numbers = "start and count have to be decimal integers"
    bad = {
        f"{OWNER}:{hex(nth(0))}:{SIZE}": numbers,
        f"{OWNER}:{nth(0)}:-{SIZE}": numbers,
        f"{OWNER}:{nth(0)}:{SIZE} ": numbers,
        f"{OWNER}:{nth(0)}": "expected owner:start:count",
        f"{OWNER}:{nth(0)}:{SIZE}:": "expected owner:start:count",
        f":{nth(0)}:{SIZE}": "expected owner:start:count",
        f"{OWNER}:{nth(0)}:0{SIZE}": (
            "start and count must have no leading zero"
        ),
        f"{OWNER}:{nth(0)}:0": "count is 0",
        f"{OWNER}:{nth(0)}:{2**32}": "IDs have to lie in 0..4294967294",
    }
    host_files.give("# pool", "", f"{OWNER}:{nth(3)}:{SIZE}")
    host_files.append("subuid", *bad)
    results = at_once(
        cli,
        *("config check -f json", "host check -f json"),
        *("lease acquire a -f json", "lease acquire b -f json"),
    )
    told = {
        each["value"]: each["message"]
        for each in findings(results[0], 0)
        if each["option"] == "/etc/subuid"
    }
    lines = [*enumerate(bad.items(), start=4)]
    # A blank at the end is to be seen.
    assert told == {
        repr(text)
        if text.endswith(" ")
        else text: f"line {number}: {reason}; it is not heeded"
        for number, (text, reason) in lines
    }
    (users,) = (
        each["message"]
        for each in json.loads(results[1].out)
        if each["check"] == "subordinate user IDs"
    )
    assert users.split("; ") == [
        f"line {number} is malformed: {reason}"
        for number, (_, reason) in lines
    ]
    acquired, exhausted = sorted(results[2:], key=lambda each: each.code)
    assert (acquired.code, exhausted.code) == (0, 1)
    assert starts(json.loads(acquired.out)) == both(3)[0]
    warnings = [
        f"warning: /etc/subuid, line {number}, {text!r}: {reason}; it is not "
        "heeded"
        for number, (text, reason) in lines
    ]
    assert acquired.err.splitlines() == warnings
    assert exhausted.err.splitlines()[:-1] == warnings
    assert f"{SIZE} of its {SIZE} IDs are leased" in exhausted.err


@pytest.mark.parametrize(
    "lines",
    [
        [f" {OWNER}:{nth(0)}:{SIZE}\n", f"{OWNER} :{nth(1)}:{SIZE}\n"],
        # As an editor of another system may write it.
        [f"{OWNER}:{nth(0)}:{SIZE}\r\n", f"{OWNER}:{nth(1)}:{SIZE}\r\n"],
    ],
)
def test_lines_that_only_look_good(
    cli: CommandLine, host_files: HostFiles, lines: list[str]
) -> None:
    """To shadow, they are another owner's, or no lines at all."""
    for name in ("subuid", "subgid"):
        host_files[name].write_bytes("".join(lines).encode())
    found = findings(cli("config", "check", "-f", "json"), 1)
    for name in ("subuid", "subgid"):
        assert [
            each["message"].partition(":")[0]
            for each in found
            if each["option"] == f"/etc/{name}"
        ] == ["line 1", "line 2"]


def test_owners_that_overlap(cli: CommandLine, host_files: HostFiles) -> None:
    host_files.append("passwd", "eve:x:5000:5000::/:/bin/false")
    host_files.give(
        f"eve:{nth(0)}:{SIZE}",
        f"5000:{nth(0)}:{SIZE}",  # The same user.
        f"bob:{nth(1)}:{SIZE}",
        f"carol:{nth(2) - 1}:{SIZE}",
    )
    checks = json.loads(cli("host", "check", "-f", "json").out)
    assert {
        each["check"]: (each["status"], each["message"], each["remedy"])
        for each in checks
        if each["check"].startswith("subordinate")
    } == {
        f"subordinate {kind} IDs": (
            "WARN",
            "bob (line 3) and carol (line 4) overlap",
            f"give each owner a range of its own in {path}",
        )
        for kind, path in (("user", "/etc/subuid"), ("group", "/etc/subgid"))
    }


@pytest.mark.parametrize(
    ("owner", "extra", "message"),
    [
        (
            OWNER,
            f"[libvirt]\nuid_maps = 0:{BASE}:{WHOLE}\n"
            f"gid_maps = 0:{BASE}:{WHOLE}\n",
            "is set beside [libvirt] uid_maps or gid_maps",
        ),
        ("-g", "", "the name or the number of a user is needed"),
        ("a:b", "", "the name or the number of a user is needed"),
    ],
)
def test_pools_that_cannot_be_configured(
    cli: CommandLine, owner: str, extra: str, message: str
) -> None:
    configure(cli, owner=owner, extra=extra)
    error = cli("lease", "acquire", "a").error()
    assert error.startswith(f"[lxc_userns] subid_owner = {owner}: {message}")
    assert not cli.state.exists()


def test_without_a_pool(cli: CommandLine, host_files: HostFiles) -> None:
    host_files.give_ranges(1)
    configure(cli, owner="")
    refused, table = at_once(cli, "lease acquire a", "lease list")
    assert refused.error() == (
        "[lxc_userns] subid_owner: is empty: there is no pool to lease from"
    )
    assert summary(table) == ["0 held"]


def test_a_pool_that_was_changed(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(1)
    assert acquire(cli, "old") == both(0)[0]
    # All but its last ID.
    host_files.give(f"{OWNER}:{nth(0)}:{SIZE - 1}", f"{OWNER}:{nth(8)}:{SIZE}")
    again, new = at_once(
        cli, "lease acquire old -f json", "lease acquire new -f json"
    )
    assert starts(json.loads(again.out)) == both(0)[0]
    assert again.err == (
        f"warning: old: its lease ({SIZE} IDs, users from {BASE} on, groups "
        f"from {BASE} on) is not, or no longer, in the pool of {OWNER}; it "
        "keeps it\n"
    )
    assert starts(new.json()) == both(8)[0]
    listed = cli.json("lease", "list")
    assert {lease["instance"]: lease["state"] for lease in listed} == {
        "old": "held, outside the pool",
        "new": "held",
    }


def test_containers_get_ranges_of_their_own(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(3, WHOLE)
    options = ("--rootfs", str(busybox_rootfs), "--init", INIT,
               "--strategy", "overlay", "-f", "json")  # fmt: skip
    started = at_once(
        cli,
        ("container", "run", "one", *options),
        ("container", "run", "two", *options),
    )
    begin = {each.json()["name"]: start_of(each.json()) for each in started}
    assert sorted(begin.values()) == both(0, 1, size=WHOLE)
    assert held(cli) == begin
    assert cli("container", "stop", "one", "--timeout", "0").code == 0
    released, acquired = at_once(
        cli, "lease release one", "lease acquire three -f json"
    )
    assert released.error() == (
        "one: has its lease until it is destroyed or released"
    )
    assert starts(acquired.json()) == both(2, size=WHOLE)[0]
    assert start_of(cli.json("container", "start", "one")) == begin["one"]
    destroyed = at_once(cli, "container destroy one", "container destroy two")
    assert [each.code for each in destroyed] == [0, 0]
    assert held(cli) == {"three": both(2, size=WHOLE)[0]}


def failing_runs(rootfs: Path) -> dict[str, tuple[list[str], str]]:
    """Options with which no container runs, and what is said of them."""
    options = ["--rootfs", str(rootfs), "--init"]
    return {
        "rootfs": (["--rootfs", "/nonexistent"], "No such file or directory"),
        "init": ([*options, "/absent"], "has no /absent: No such file"),
        "start": (
            [*options, INIT, "--network", "network:absent"],
            "libvirt: start ",
        ),
    }


def test_a_run_that_fails_leaves_no_lease(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(1, WHOLE)
    for name, (options, message) in failing_runs(busybox_rootfs).items():
        assert message in cli("container", "run", name, *options).error()
    assert held(cli) == {}


@pytest.mark.parametrize("failures", [["rootfs", "init"], ["start"]])
def test_a_lease_that_was_there_before_the_container(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    failures: list[str],
) -> None:
    cli = container_cli
    host_files.give_ranges(3, WHOLE)
    lease = acquire(cli, "web")
    assert lease == both(0, size=WHOLE)[0]
    runs = failing_runs(busybox_rootfs)
    for options, message in map(runs.__getitem__, failures):
        assert message in cli("container", "run", "web", *options).error()
    assert held(cli) == {"web": lease}
    assert run(cli, "web", busybox_rootfs) == lease


def test_what_is_shifted_on_disk_keeps_its_range_from_others(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    (busybox_rootfs / ".oldroot").mkdir()  # libvirt needs it.
    before = owners(busybox_rootfs)
    first, second = both(0, 1, size=WHOLE)

    def run_on_disk(name: str) -> tuple[int, int]:
        begin = run(cli, name, busybox_rootfs, "--strategy", "chown")
        assert owners(busybox_rootfs) == {
            path: (uid + begin[0], gid + begin[1])
            for path, (uid, gid) in before.items()
        }
        assert cli("container", "destroy", name).code == 0
        return begin

    assert run_on_disk("one") == first
    assert summary(cli("lease", "list")) == [
        f"0 held, 1 free: leases of {WHOLE} IDs from the pool of {OWNER}",
        f"not leased again while shifted for {first[0]}: {busybox_rootfs}",
    ]
    # Shifted for another range, it does not stand in the way of the first.
    assert run_on_disk("two") == second
    assert acquire(cli, "a") == first
    error = cli("lease", "acquire", "b").error()
    assert error.endswith(
        "; some were released, but are still on disk, so remove or unshift "
        f"{busybox_rootfs}"
    )
    assert cli("rootfs", "unshift", busybox_rootfs).code == 0
    assert owners(busybox_rootfs) == before
    assert acquire(cli, "b") == second


def test_a_volume_that_is_shifted_does_so_too_until_it_is_removed(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(1, WHOLE)
    data = busybox_rootfs.with_name("data")
    data.mkdir()
    run(cli, "web", busybox_rootfs, "--volume", f"{data}:/data:chown")
    assert data.stat().st_uid == BASE
    assert cli("container", "destroy", "web").code == 0
    assert f"unshift {data}" in cli("lease", "acquire", "a").error()
    shutil.rmtree(data)
    assert acquire(cli, "a") == (BASE, BASE)


@pytest.mark.needs("ext4")
def test_an_image_that_is_shifted_for_another_range(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    first, second = both(0, 1, size=WHOLE)
    image = busybox_rootfs.with_suffix(".img")
    images.make_image("ext4", image, 64, root=busybox_rootfs)
    assert run(cli, "one", image, "--strategy", "chown") == first
    assert cli("container", "destroy", "one").code == 0
    assert summary(cli("lease", "list"))[1:] == [
        f"not leased again while shifted for {first[0]}: {image}"
    ]
    assert run(cli, "two", image, "--strategy", "chown") == second
    # While it is in use nobody can look what it is shifted for.
    assert cli("container", "stop", "two", "--timeout", "0").code == 0
    assert summary(cli("lease", "list")) == [
        f"1 held, 1 free: leases of {WHOLE} IDs from the pool of {OWNER}"
    ]


def test_after_a_reboot_of_the_host(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    lease = run(cli, "web", busybox_rootfs)
    libvirt_connection.lookupByName("web").destroy()
    # All that a reboot takes away.
    subprocess.run(["umount", cli.run / "web/root"], check=True)
    shutil.rmtree(cli.run)
    assert [lease, acquire(cli, "a")] == both(0, 1, size=WHOLE)
    assert start_of(cli.json("container", "start", "web")) == lease


def test_gc_returns_what_libvirt_does_not_know(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    begin = run(cli, "web", busybox_rootfs)
    collect = ("lease", "gc", "-f", "json")
    now = (*collect, "--grace-period", "0")
    domain = libvirt_connection.lookupByName("web")
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    domain.destroy()
    domain.undefine()

    (orphan,) = cli(*collect).json()
    assert (orphan["instance"], orphan["outcome"]) == ("web", "waiting")
    assert starts(orphan) == begin
    (lease,) = cli.json("lease", "list")
    assert lease["state"].startswith("held, unknown to libvirt since ")
    # It was about to be defined anew.
    domain = libvirt_connection.defineXML(xml)
    assert cli(*now).json() == []
    (lease,) = cli.json("lease", "list")
    assert lease["state"] == "held"
    domain.undefine()

    # Something runs with its last ID.
    with running_with(begin[0] + WHOLE - 1, 1) as process:
        (orphan,) = cli(*now).json()
    assert (orphan["outcome"], orphan["reason"]) == (
        "kept",
        f"is in use by the running process {process.pid} (cat) "
        f"({begin[0] + WHOLE - 1}:1)",
    )
    error = cli(*now, prefix=WITHOUT_LIBVIRT).error(4)
    assert error.startswith("libvirt: connect to lxc:///: ")
    (orphan,) = cli(*now).json()
    assert (orphan["instance"], orphan["outcome"]) == ("web", "returned")
    assert held(cli) == {}
    assert list(cli.state.glob("instances/*")) == []
    assert cli.mounts() == []
    assert busybox_rootfs.stat().st_uid == 0


def test_gc_keeps_what_has_files_of_its_own(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    archive = busybox_rootfs.with_suffix(".tar")
    subprocess.run(
        ["tar", "-C", busybox_rootfs, "-cf", archive, "."], check=True
    )
    leases = {
        "over": run(cli, "over", busybox_rootfs, "--strategy", "overlay"),
        "tape": run(cli, "tape", archive),
    }
    files = {
        "over": cli.state / "private/over/overlay/upper/made",
        "tape": cli.state / "private/tape/rootfs/made",
    }
    for container in cli.json("container", "list"):
        ask(container["init_pid"], "touch /made")
        domain = libvirt_connection.lookupByName(container["name"])
        domain.destroy()
        domain.undefine()
    found = cli.json("lease", "gc", "--grace-period", "0")
    assert {
        each["instance"]: (each["outcome"], each["reason"]) for each in found
    } == dict.fromkeys(
        leases,
        ("kept", "has files of its own; destroy or release the instance"),
    )
    assert held(cli) == leases
    assert all(map(Path.exists, files.values()))
    for result in at_once(
        cli, "container destroy over", "container destroy tape"
    ):
        assert result.code == 0
    assert not any(map(Path.exists, files.values()))
    assert held(cli) == {}


def test_what_is_no_grace_period(cli: CommandLine) -> None:
    error = cli("lease", "gc", "--grace-period", "nan").error()
    assert error == "--grace-period = nan: expected 0 or more"


COMMANDS = ("lease acquire b", "lease list", "lease release a")


def write_garbage(file: Path) -> str:
    file.write_bytes(b"leases? " * 1000)
    return f"{file}: file is not a database; it is damaged: restore a backup"


def write_another_version(file: Path) -> str:
    database = sqlite3.connect(file)
    database.execute("PRAGMA user_version = 99")
    database.close()
    return f"{file}: its schema has version 99, this version of lxc-userns"


def open_to_others(file: Path) -> str:
    file.touch()
    file.parent.chmod(0o755)
    return f"{file.parent} has mode 0755"


def give_away(file: Path) -> str:
    file.touch()
    os.chown(file.parent, 1000, 0)
    return f"{file.parent} belongs to user 1000"


@pytest.mark.parametrize(
    "damage",
    [
        write_garbage,
        write_another_version,
        open_to_others,
        give_away,
    ],
)
def test_leases_that_cannot_be_trusted(
    cli: CommandLine, host_files: HostFiles, damage: Callable[[Path], str]
) -> None:
    host_files.give_ranges(2)
    cli.state.mkdir(mode=0o700)
    file = cli.state / "leases.sqlite3"
    message = damage(file)
    before = contents(file)
    for result in at_once(cli, *COMMANDS[:2]):
        assert message in result.error()
    assert contents(file) == before


def contents(file: Path) -> tuple[int, bytes | None]:
    """Return the content of a file, and its mode."""
    content = file.read_bytes() if file.is_file() else None
    return file.stat().st_mode, content


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Mount something for a while; the last argument is where."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


def test_leases_on_a_readonly_filesystem(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(2)
    acquire(cli, "a")
    file = cli.state / "leases.sqlite3"
    before = contents(file)
    with mounted("--bind", cli.state, cli.state):
        remount = ["mount", "-o", "remount,ro,bind", str(cli.state)]
        subprocess.run(remount, check=True)
        # Only to look needs nothing else.
        assert [*held(cli)] == ["a"]
        for result in at_once(cli, "lease acquire b", "lease release a"):
            error = result.error()
            assert str(cli.state) in error
            assert error.endswith(
                ("Read-only file system", "readonly database")
            )
        assert contents(file) == before


def test_leases_on_a_full_disk(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(2)
    cli.state.mkdir()
    file = cli.state / "leases.sqlite3"
    options = ("-t", "tmpfs", "-o", "size=1M,mode=700", "none")
    with mounted(*options, cli.state):
        acquire(cli, "a")
        before = contents(file)
        filler = cli.state / "filler"
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        acquired, released = at_once(cli, *COMMANDS[::2])
        for result in (acquired, released):
            assert f"{file}: database or disk is full" in result.error()
        assert contents(file) == before
        filler.unlink()
        assert acquire(cli, "b") == both(1)[0]
