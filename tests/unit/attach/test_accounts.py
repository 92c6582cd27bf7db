# SPDX-License-Identifier: Apache-2.0
"""Users and groups by files that a container has made."""

from collections.abc import Callable

import pytest

from lxc_userns.attach import accounts, joiner
from lxc_userns.attach.accounts import AccountError

PASSWD = b"""\
root:x:0:0:root:/root:/bin/bash
# a comment
alice:x:1000:100:Alice,,,:/home/alice:/bin/zsh
alice:x:0:0:second:/:/bin/sh
short:x:1
:x:7:7::/:/bin/sh
big:x:4294967295:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
other:x:4294967294:0:::
bare:x:8:8::home:sh
null\0:x:9:9::/:/bin/sh
1000:x:5:5::/:/bin/sh
"""
GROUP = b"""\
root:x:0:
staff:x:50:bob,alice
bad:x:x:alice
tty:x:5:alice
short:x
"""


def read(path: str) -> bytes:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}[path]


def read_nothing(path: str) -> bytes:
    raise AccountError(f"{path}: not a regular file")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"4294967294", 4294967294),
        (b"4294967295", None),
        (b"99999999999999999999", None),
        (b"-1", None),
        (b"+1", None),
        (b"1_0", None),
        (b" 1", None),
        (b"", None),
        ("\u0661".encode(), None),
    ],
)
def test_ids(text: bytes, number: int | None) -> None:
    assert accounts.parse_id(text) == number


def test_the_first_line_counts() -> None:
    user = accounts.find_named(PASSWD, b"alice")
    assert (user.name, user.uid, user.gid) == (b"alice", 1000, 100)
    assert (user.home, user.shell) == (b"/home/alice", b"/bin/zsh")


@pytest.mark.parametrize("name", [b"short", b"big", b"minus"])
def test_lines_that_are_no_good(name: bytes) -> None:
    with pytest.raises(AccountError, match="malformed"):
        accounts.find_named(PASSWD, name)


@pytest.mark.parametrize("name", [b"nosuch", b"", b"null\0", b"null"])
def test_no_such_user(name: bytes) -> None:
    with pytest.raises(AccountError, match=r"no such user|malformed"):
        accounts.find_named(PASSWD, name)


@pytest.mark.parametrize("name", [b"other", b"bare"])
def test_paths_are_absolute(name: bytes) -> None:
    user = accounts.find_named(PASSWD, name)
    assert (user.home, user.shell) == (b"/", b"/bin/sh")


def test_bounds() -> None:
    with pytest.raises(AccountError, match="a line has more than"):
        accounts.find_named(b"x" * 70_000, b"x")
    with pytest.raises(AccountError, match="the file has more than"):
        accounts.find_named(b"x\n" * (3 << 20), b"x")


def test_groups() -> None:
    assert accounts.find_group(GROUP, b"staff") == 50
    assert accounts.find_memberships(GROUP, b"alice") == [5, 50]
    for name, why in ((b"bad", "malformed"), (b"nosuch", "no such group")):
        with pytest.raises(AccountError, match=why):
            accounts.find_group(GROUP, name)


@pytest.mark.parametrize(
    ("given", "uid", "groups", "home"),
    [
        (None, 0, [0], b"/root"),
        (b"0", 0, [0], b"/root"),
        (b"root", 0, [0], b"/root"),
        (b"alice", 1000, [100, 5, 50], b"/home/alice"),
        # What looks like a number is one.
        (b"1000", 1000, [100], b"/home/alice"),
        (b"77", 77, [0], b"/"),
        (b"77:9", 77, [9], b"/"),
        (b"alice:staff", 1000, [50], b"/home/alice"),
    ],
)
def test_find_user(
    given: bytes | None, uid: int, groups: list[int], home: bytes
) -> None:
    user, found = joiner.find_user(given, read)
    assert (user.uid, user.gid) == (uid, groups[0])
    assert (found, user.home) == (groups, home)


@pytest.mark.parametrize(
    ("given", "reader"),
    [
        (b"", read),
        (b":5", read),
        (b"alice:nosuch", read),
        (b"alice", read_nothing),
        (b"0:root", read_nothing),
    ],
)
def test_users_that_are_refused(
    given: bytes, reader: Callable[[str], bytes]
) -> None:
    with pytest.raises(AccountError):
        joiner.find_user(given, reader)


def test_numbers_need_no_file() -> None:
    user, groups = joiner.find_user(None, read_nothing)
    assert (user.name, user.home, groups) == (b"root", b"/root", [0])
    user, groups = joiner.find_user(b"5:6", read_nothing)
    assert (user.name, user.uid, groups) == (None, 5, [6])


def test_environment() -> None:
    user = accounts.User(None, 77, 0)
    given = [(b"HOME", b"/srv"), (b"A", b"")]
    job: dict[str, object] = {
        "terminal": None,
        "term": b"xterm",
        "environment": given,
    }
    assert joiner.make_environment(user, job) == {
        b"PATH": joiner.PATH,
        b"HOME": b"/srv",
        b"USER": b"77",
        b"LOGNAME": b"77",
        b"SHELL": b"/bin/sh",
        b"container": b"lxc-libvirt",
        b"A": b"",
    }
    job["terminal"] = (24, 80)
    assert joiner.make_environment(user, job)[b"TERM"] == b"xterm"
