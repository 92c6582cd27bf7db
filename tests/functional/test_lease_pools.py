# SPDX-License-Identifier: Apache-2.0
"""Pools that leases are from: what is wrong with one, and what is told."""

import json
import re
import shutil

import pytest

from tests.functional.command_line import BASE, CommandLine, Result
from tests.functional.lease_host import (
    OWNER,
    SIZE,
    WHOLE,
    HostFiles,
    acquire,
    at_once,
    both,
    cli,
    configure,
    findings,
    host_files,
    nth,
    starts,
    summary,
)

__all__ = ["cli", "host_files"]

# Also those without containers: what is mounted over files of /etc is to be
# seen in a mount namespace of our own alone.
pytestmark = pytest.mark.needs("containers")
ADVICE = re.compile(r"add the line (?P<line>\S+) to /etc/(?P<name>\w+)")


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


def test_malformed_lines_are_reported_and_ignored(
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
        else text: f"line {number}: {reason}; the line is ignored"
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
        f"warning: /etc/subuid, line {number}, {text!r}: {reason}; the "
        "line is ignored"
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
