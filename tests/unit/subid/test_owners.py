# SPDX-License-Identifier: Apache-2.0
"""Owners of IDs of this host."""

import os
import pwd
import subprocess
from collections.abc import Callable
from typing import NoReturn

import pytest

from lxc_userns.exceptions import PrerequisiteError
from lxc_userns.subid import owners
from lxc_userns.subid.files import SubordinateRange, parse
from lxc_userns.subid.owners import IdOwnership
from tests.unit.id_host import IdHost

HELD = IdOwnership(
    "user",
    {1000: "alice", 0: "root", 165535: "edge"},
    (
        SubordinateRange("alice", 100000, 65536, 1),
        SubordinateRange("bob", 165536, 65536, 2),
    ),
)


@pytest.mark.parametrize(
    ("ids", "holders"),
    [
        (range(1, 1000), []),
        (range(1001, 100000), []),
        (range(1000, 1001), ["user alice (1000)"]),
        (range(2), ["user root (0)"]),
        (range(1001), ["user root (0)", "user alice (1000)"]),
        (
            range(1001, 100001),
            ["the subordinate user IDs of alice (100000:65536)"],
        ),
        (
            range(165535, 165537),
            [
                "user edge (165535)",
                "the subordinate user IDs of alice (100000:65536)",
                "the subordinate user IDs of bob (165536:65536)",
            ],
        ),
        # Right behind the last, and within one.
        (range(231072, 300000), []),
        (
            range(200000, 200001),
            ["the subordinate user IDs of bob (165536:65536)"],
        ),
    ],
)
def test_holders(ids: range, holders: list[str]) -> None:
    assert [*map(str, HELD.holders(ids))] == holders


def test_own_subordinates_do_not_count() -> None:
    assert list(HELD.holders(range(100000, 100010), owner="alice")) == []
    assert len(list(HELD.holders(range(100000, 100010), owner="bob"))) == 1
    # The owner's own user does count: the container would be that user.
    (holder,) = HELD.holders(range(1000, 1010), owner="alice")
    assert (holder.name, holder.ids) == (
        "user alice (1000)",
        range(1000, 1001),
    )


def test_reads_this_host(id_host: IdHost) -> None:
    id_host.file("/etc/subuid").write_bytes(
        b"alice:100000:65536\nbroken\n\xff:300000:1\nbob:1:2\r\n"
    )
    id_host.users, id_host.groups = {0: "root"}, {0: "wheel"}
    users = owners.read_host_uids()
    assert users.kind == "user"
    assert users.names == {0: "root"}
    assert users.subordinates == (
        SubordinateRange("alice", 100000, 65536, 1),
        SubordinateRange("\udcff", 300000, 1, 3),
    )
    # Another line ending makes it another number.
    assert [each.line for each in users.malformed] == [2, 4]
    groups = owners.read_host_gids()
    assert groups.kind == "group"
    assert groups.names == {0: "wheel"}
    assert groups.subordinates == ()
    assert groups.malformed == ()


def test_nothing_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    owners.read_host_uids()
    owners.read_host_gids()
    assert os.listdir("/proc/self/fd") == before


def test_what_only_shadow_can_read_is_held() -> None:
    """Never ours, and never anybody else's."""
    ranges, malformed = parse(
        "lxc:100:100\nalice:0x78:0x10\nlxc:0x96:1\nx\nbob:10:0\n"
    )
    host = IdOwnership("user", {}, ranges, malformed)
    assert [*host.owned("alice")] == []
    (holder,) = host.holders(range(100, 200), "lxc")
    assert holder.name == "whoever line 2 means ('alice:0x78:0x10')"
    assert holder.ids == range(120, 136)


def test_files_that_cannot_be_read(id_host: IdHost) -> None:
    id_host.file("/etc/subuid").mkdir()
    with pytest.raises(PrerequisiteError, match="/etc/subuid: Is a directory"):
        owners.read_host_uids()


def test_an_owner_by_any_name_or_number() -> None:
    ranges = tuple(
        SubordinateRange(owner, number * 10, 10, number)
        for number, owner in enumerate(
            ("alice", "1000", "also-alice", "bob", "not-there", "2000")
        )
    )
    ids = {"alice": "1000", "also-alice": "1000", "bob": "1001"}
    host = IdOwnership("user", {}, ranges, owner_ids=ids)
    for owner in ("alice", "1000", "also-alice"):
        assert [each.start for each in host.owned(owner)] == [0, 10, 20]
        assert [each.ids.start for each in host.holders(range(99), owner)] == [
            30, 40, 50,
        ]  # fmt: skip
    assert [each.start for each in host.owned("not-there")] == [40]
    assert [each.start for each in host.owned("2000")] == [50]
    assert [*host.owned("carol")] == []


Files = Callable[[str, str], None]


@pytest.fixture
def files(id_host: IdHost) -> Files:
    """Write ``/etc/subuid`` and ``/etc/nsswitch.conf`` of a host."""
    id_host.users = {0: "root"}

    def write(subuid: str, nsswitch: str) -> None:
        id_host.hold(subuid)
        id_host.file("/etc/nsswitch.conf").write_text(nsswitch)

    return write


@pytest.mark.allow_subprocess
def test_the_files_are_the_source(files: Files, id_host: IdHost) -> None:
    id_host.answer_getsubids(1, "")
    for nsswitch in ("", "subid: files\n"):
        files("lxc:100000:10\nroot:5:1\n0:7:1\n", nsswitch)
        host = owners.read_host_uids("lxc")
        assert [*host.owned("lxc")] == [range(100000, 100010)]
        assert host.source == "/etc/subuid"
        # root is in any passwd.
        assert [*host.owned("root")] == [range(5, 6), range(7, 8)]
    assert id_host.asked_for == []


@pytest.mark.allow_subprocess
def test_another_source(files: Files, id_host: IdHost) -> None:
    files("lxc:100000:10\nbob:200000:10\nbroken\n", "subid: sss\n")
    id_host.answer_getsubids(0, "0: lxc 300000 10\n1: lxc 400000 10\n")
    host = owners.read_host_uids("lxc")
    assert id_host.asked_for == ["lxc"]
    # The file does not count for the owner, but what it gives to others does.
    assert [*host.owned("lxc")] == [
        range(300000, 300010),
        range(400000, 400010),
    ]
    assert [each.owner for each in host.subordinates] == ["bob", "lxc", "lxc"]
    assert [each.line for each in host.malformed] == [3]
    assert host.source == "the source sss of subordinate IDs"
    owners.read_host_gids("lxc")
    assert id_host.asked_for[1:] == ["-g lxc"]
    # Without an owner, no one is asked.
    owners.read_host_uids()
    assert len(id_host.asked_for) == 2


@pytest.mark.allow_subprocess
def test_a_source_without_ranges(files: Files, id_host: IdHost) -> None:
    files("lxc:100000:10\n", "subid: sss\n")
    id_host.answer_getsubids(1, "")
    assert [*owners.read_host_uids("lxc").owned("lxc")] == []


@pytest.mark.allow_subprocess
def test_a_source_that_cannot_be_understood(
    files: Files, id_host: IdHost
) -> None:
    files("", "subid: sss\n")
    id_host.answer_getsubids(0, "0: lxc 300000 10\n1: lxc 300000 0\n")
    with pytest.raises(
        PrerequisiteError,
        match=r"'sss', of which .*'1: lxc 300000 0': count is 0",
    ):
        owners.read_host_uids("lxc")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "x"), r"'sss', and getsubids, .* uidmap"),
        (
            subprocess.TimeoutExpired(["getsubids"], 60),
            "'sss', which does not answer",
        ),
    ],
)
def test_a_source_that_cannot_be_asked(
    files: Files, error: Exception, message: str
) -> None:
    files("", "subid: sss\n")

    def run(argv: tuple[str, ...], *, timeout: float, **_: object) -> NoReturn:
        assert (argv, timeout) == (("getsubids", "lxc"), 60)
        raise error

    with pytest.raises(PrerequisiteError, match=message):
        owners.read_host_uids("lxc", run)


def test_no_one_is_asked_for_each_owner(files: Files, id_host: IdHost) -> None:
    """A directory service may be far away, and a file have many lines."""
    lines = "".join(f"user{n}:{n * 10 + 100}:10\n" for n in range(1000))
    asked: list[object] = []

    def ask(name: object) -> pwd.struct_passwd:
        asked.append(name)
        raise KeyError(name)

    id_host.find_user = ask
    files(lines + "lxc:100000:10\n5000:5:5\n", "")
    assert [*owners.read_host_uids("lxc").owned("lxc")] == [
        range(100000, 100010)
    ]
    assert asked == ["lxc"]
    owners.read_host_uids("5000")
    assert asked[1:] == ["5000", 5000]
    owners.read_host_uids("9" * 5000)


def test_an_owner_that_a_directory_service_does_not_list(
    files: Files, id_host: IdHost
) -> None:
    entry = pwd.struct_passwd(("carol", "x", 70000, 1, "", "/", ""))
    id_host.find_user = {"carol": entry, 70000: entry}.__getitem__
    files("carol:100000:10\n70000:200000:10\n", "")
    for owner in ("carol", "70000"):
        found = owners.read_host_uids(owner).owned(owner)
        assert [*found] == [range(100000, 100010), range(200000, 200010)]


def test_ids_that_there_are_not_are_others(id_host: IdHost) -> None:
    """A user namespace has 65536 IDs, and some more."""
    id_host.map(range(65536), range(200000, 200010))
    host = owners.read_host_uids()
    assert [*host.present] == [range(65536), range(200000, 200010)]
    (holder,) = host.holders(range(200005, 200100))
    assert holder.ids == range(200010, 200100)
    assert "does not have them (200010:90)" in str(holder)
