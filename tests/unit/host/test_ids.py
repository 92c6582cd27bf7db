# SPDX-License-Identifier: Apache-2.0
"""Subordinate IDs, and the pool of them."""

from pathlib import Path

import pytest

from lxc_userns.findings import Finding, Severity
from lxc_userns.host import ids
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.subid.files import parse
from lxc_userns.subid.owners import IdOwnership
from tests.unit.id_host import IdHost

FILE = Path("/etc/subuid")
CORRECT = "correct or remove these lines of /etc/subuid"
SEPARATE = "give each owner a range of its own in /etc/subuid"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", passed("0 ranges in /etc/subuid, none overlaps another")),
        (
            "a:100000:65536\na:100000:65536\n",
            passed("2 ranges in /etc/subuid, none overlaps another"),
        ),
        (
            "a:100000:65536\nb:165536:65536\n",
            passed("2 ranges in /etc/subuid, none overlaps another"),
        ),
        (
            "a:100000:65536\nb:165535:10\n",
            warned("a (line 1) and b (line 2) overlap", SEPARATE),
        ),
        (
            "# shadow's\n\na:0x10:5\na:5\n",
            warned(
                "line 3 is malformed: start and count have to be decimal "
                "integers; line 4 is malformed: expected owner:start:count",
                CORRECT,
            ),
        ),
        (
            "a:1000000:5\nb:1000000:5\nc\n",
            warned(
                "line 3 is malformed: expected owner:start:count; a (line 1) "
                "and b (line 2) overlap",
                f"{CORRECT}; {SEPARATE}",
            ),
        ),
    ],
)
def test_subordinate_ids(text: str, result: Finding) -> None:
    found = IdOwnership("user", {}, *parse(text))
    assert ids.evaluate(found, FILE, present=True) == result


def test_no_file_of_subordinate_ids() -> None:
    found = IdOwnership("user", {}, ())
    assert ids.evaluate(found, FILE, present=False) == passed(
        "none, for there is no /etc/subuid"
    )


def given(users: str, groups: str) -> str:
    return (
        "/etc/login.defs gives new users subordinate user IDs of "
        f"{users}, group IDs of {groups}"
    )


def colliding(users: str, groups: str, options: str) -> Finding:
    return warned(
        f"{given(users, groups)}; systemd gives some of these to containers "
        "(524288-1879048191)",
        f"set {options} to 524287 in /etc/login.defs, unless systemd-nspawn "
        "and systemd-nsresourced have no containers here",
    )


USUAL = "100000-600100000"
BOTH = "SUB_UID_MAX and SUB_GID_MAX"
LOW = "SUB_UID_MAX 524287\nSUB_GID_MAX 524287\n"
HIGH = "SUB_{0}_MIN\t1879048192\nSUB_{0}_MAX 2100000000"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", colliding(USUAL, USUAL, BOTH)),
        ("#SUB_UID_MAX 524287\n", colliding(USUAL, USUAL, BOTH)),
        (
            "  SUB_UID_MAX 524288\nSUB_GID_MAX 524287",
            colliding("100000-524288", "100000-524287", "SUB_UID_MAX"),
        ),
        (
            "SUB_UID_MAX 524287\n",
            colliding("100000-524287", USUAL, "SUB_GID_MAX"),
        ),
        (LOW, passed(given("100000-524287", "100000-524287"))),
        (
            HIGH.format("UID") + "\n" + HIGH.format("GID"),
            passed(given("1879048192-2100000000", "1879048192-2100000000")),
        ),
    ],
)
def test_range_for_new_users(text: str, result: Finding) -> None:
    assert ids.evaluate_login_defs(text) == result


@pytest.mark.parametrize("text", [None, LOW])
def test_login_defs_may_be_missing(text: str | None, id_host: IdHost) -> None:
    if text is not None:
        id_host.file("/etc/login.defs").write_text(text)
    assert ids.check_login_defs().severity == (
        Severity.INFO if text else Severity.WARN
    )


@pytest.mark.parametrize(
    ("owner", "text", "result"),
    [
        ("", "", passed("none: [lxc_userns] subid_owner is empty")),
        (
            "lxc",
            "lxc:2000000000:131072\n",
            passed("the subordinate IDs of lxc give 2 leases of 65536"),
        ),
        (
            "lxc",
            "lxc:2000000000:10\n",
            failed(
                "the 10 subordinate user IDs of lxc in /etc/subuid have no "
                "room for 65536; the 10 subordinate group IDs of lxc in "
                "/etc/subgid have no room for 65536",
                "add the line lxc:2013265920:65536000 to /etc/subuid; add "
                "the line lxc:2013265920:65536000 to /etc/subgid",
            ),
        ),
    ],
)
def test_pool(owner: str, text: str, result: Finding, id_host: IdHost) -> None:
    id_host.hold(text, text)
    assert ids.check_pool(owner, 65536) == result


def test_a_pool_in_the_range_of_a_directory_service(
    id_host: IdHost,
) -> None:
    id_host.file("/etc/nsswitch.conf").write_text("passwd: files sss\n")
    id_host.hold("lxc:2000000000:131072\n", "lxc:2013265920:131072\n")
    result = ids.check_pool("lxc", 65536)
    assert (result.severity, result.message.split("; ")[:2]) == (
        Severity.WARN,
        [
            "the subordinate IDs of lxc give 2 leases of 65536",
            "the user range 2000000000:131072 meets 200000-2000199999, which "
            "SSSD and FreeIPA give to users by default, and "
            "/etc/nsswitch.conf names sss",
        ],
    )
    assert "group" not in result.message
