# SPDX-License-Identifier: Apache-2.0
"""The pool: what is in it, who holds some of it, what to do without one."""

import pytest

from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases import Lease
from lxc_userns.leases.pool import Pool, Pools, make_pools, read_pools
from lxc_userns.subid.files import parse
from lxc_userns.subid.owners import IdOwner, IdOwnership
from tests.unit.id_host import IdHost

S = 65536
BASE = 2_000_000_000
LINE = f"lxc:{BASE}:{4 * S}\n"


def read(
    host: IdHost,
    subuid: str = LINE,
    subgid: str = LINE,
    users: dict[int, str] | None = None,
    groups: dict[int, str] | None = None,
) -> Pools:
    host.users, host.groups = users or {}, groups or {}
    host.hold(subuid, subgid)
    return read_pools("lxc")


@pytest.mark.allow_subprocess
def test_the_owner_is_asked_for(id_host: IdHost) -> None:
    id_host.answer_getsubids(0, f"0: lxc {BASE} 5\n")
    id_host.file("/etc/nsswitch.conf").write_text("subid: sss\n")
    pools = read(id_host)
    assert id_host.asked_for == ["lxc", "-g lxc"]
    assert [*pools.uid.ids] == [*pools.gid.ids] == [range(BASE, BASE + 5)]


def test_of_all_lines(id_host: IdHost) -> None:
    subuid = f"lxc:{BASE + S}:{S}\nroot:5:5\nlxc:{BASE}:{S}\nlxc:{BASE}:{S}\n"
    pools = read(id_host, subuid, "lxc:100000:10\nlxc:200000:10\n")
    assert [*pools.uid.ids] == [range(BASE, BASE + 2 * S)]
    assert [*pools.gid.ids] == [range(100000, 100010), range(200000, 200010)]
    assert pools.uid.holders == pools.gid.holders == ()
    assert (pools.uid.source, pools.gid.source) == (
        "/etc/subuid",
        "/etc/subgid",
    )
    assert pools.problems(10) == []


def test_some_ids_are_never_leased(id_host: IdHost) -> None:
    pools = read(id_host, "lxc:0:100000\n", "lxc:65534:1\n")
    assert [*pools.uid.ids] == [range(1, 65534), range(65536, 100000)]
    assert not pools.gid.ids


def test_who_holds_some_of_it(id_host: IdHost) -> None:
    pools = read(
        id_host,
        LINE + f"bob:{BASE + 2 * S - 5}:10\n",
        users={BASE + 7: "alice", BASE - 1: "x", BASE + 4 * S: "y"},
        groups={BASE + 4 * S - 1: "staff"},
    )
    assert [*map(str, pools.uid.holders)] == [
        f"user alice ({BASE + 7})",
        f"the subordinate user IDs of bob ({BASE + 2 * S - 5}:10)",
    ]
    assert [*pools.uid.free] == [
        range(BASE, BASE + 7),
        range(BASE + 8, BASE + 2 * S - 5),
        range(BASE + 2 * S + 5, BASE + 4 * S),
    ]
    assert pools.gid.describe_holders() == f"group staff ({BASE + 4 * S - 1})"
    more = pools.with_holders(
        [
            ("uid", IdOwner("somebody", range(BASE + 3 * S, BASE + 9 * S))),
            ("gid", IdOwner("elsewhere", range(5, 9))),
        ]
    )
    assert [*map(str, more.uid.holders)][2:] == ["somebody"]
    assert more.gid.holders == pools.gid.holders
    assert BASE + 3 * S not in more.uid.free


def test_many_holders_are_counted() -> None:
    holders = tuple(IdOwner(f"user u{n}", range(n, n + 1)) for n in range(9))
    described = Pool("user", "", IdSet(), holders).describe_holders()
    assert described == "user u0, user u1, user u2, user u3, user u4, 4 more"


def test_what_is_in_it(id_host: IdHost) -> None:
    pools = read(id_host, subgid=f"lxc:{BASE}:{2 * S}\n")
    assert pools.contains(
        Lease(
            instance="a",
            uuid=None,
            uid_start=BASE + 2 * S,
            gid_start=BASE + S,
            count=S,
            acquired=0,
        )
    )
    assert not pools.contains(
        Lease(
            instance="a",
            uuid=None,
            uid_start=BASE,
            gid_start=BASE + S,
            count=S + 1,
            acquired=0,
        )
    )
    assert not pools.contains(
        Lease(
            instance="a",
            uuid=None,
            uid_start=BASE - 1,
            gid_start=BASE,
            count=S,
            acquired=0,
        )
    )


FREE = 2013265920
OTHERS = f"add the line {LINE.strip()} to /etc/sub"
ADVICE = f"add the line lxc:{FREE}:{1000 * S} to /etc/sub"


@pytest.mark.parametrize(
    ("subuid", "subgid", "problems"),
    [
        (LINE, LINE, []),
        (
            "",
            "bob:1:1\n",
            [
                f"lxc has no subordinate user IDs in /etc/subuid; {ADVICE}uid",
                "lxc has no subordinate group IDs in /etc/subgid; "
                f"{ADVICE}gid",
            ],
        ),
        (
            LINE,
            f"lxc:{BASE}:{S - 1}\n",
            [
                f"the {S - 1} subordinate group IDs of lxc in /etc/subgid "
                f"have no room for {S}; {OTHERS}gid"
            ],
        ),
        (
            LINE + f"bob:{BASE}:{4 * S - 1}\n",
            LINE,
            [
                f"the {4 * S} subordinate user IDs of lxc in /etc/subuid "
                f"have no room for {S} beside the subordinate user IDs of bob "
                f"({BASE}:{4 * S - 1}); {ADVICE}uid"
            ],
        ),
    ],
)
def test_pools_that_are_none(
    id_host: IdHost,
    subuid: str,
    subgid: str,
    problems: list[str],
) -> None:
    assert read(id_host, subuid, subgid).problems(S) == problems


def test_a_source_has_no_line_to_add() -> None:
    users, groups = (
        IdOwnership(kind, {}, *parse(text), source="the source sss")
        for kind, text in (("user", ""), ("group", LINE))
    )
    pools = make_pools("lxc", users, groups)
    assert pools.problems(S) == [
        "lxc has no subordinate user IDs in the source sss; give it 65536 or "
        "more there that no one has"
    ]


def test_the_advice_is_good(id_host: IdHost) -> None:
    """The line can be added as it is, to both files."""
    others = f"bob:{FREE + 5}:{S}\n"
    groups = {FREE + 500 * S: "staff"}
    pools = read(id_host, others, "", groups=groups)
    line = pools.suggest_subid_line(S) or ""
    # The room behind the group, though this is the file of users.
    owner, start, count = line.split(":")
    assert (owner, int(count)) == ("lxc", 1000 * S)
    assert int(start) > FREE + 500 * S
    after = read(id_host, others + line, line, groups=groups)
    assert after.problems(S) == []
    assert after.uid.holders == after.gid.holders == ()


def test_advice_where_little_is_free(id_host: IdHost) -> None:
    most = f"bob:{FREE}:{2147352576 - FREE - 15 * S}\n"
    line = read(id_host, most, "").suggest_subid_line(S)
    assert line is not None
    assert line.endswith(f":{10 * S}")
    everything = f"bob:1:{2**32 - 2}\n"
    pools = read(id_host, everything, "")
    assert pools.suggest_subid_line(S) is None
    assert pools.problems(S)[0].endswith(
        f"in /etc/subuid; give it {S} or more there that no one has"
    )


def test_advice_where_one_file_is_filled(
    id_host: IdHost,
) -> None:
    assert read(id_host, LINE, "").suggest_subid_line(S) == LINE.strip()
    # Unless it is too little, or somebody has some of it there.
    assert read(id_host, "lxc:5:5\n", "").suggest_subid_line(S) == (
        f"lxc:{FREE}:{1000 * S}"
    )
    groups = {BASE + 5: "staff"}
    pools = read(id_host, LINE, "", groups=groups)
    assert pools.suggest_subid_line(S) == f"lxc:{FREE}:{1000 * S}"


def test_malformed_lines_have_a_place(id_host: IdHost) -> None:
    pools = read(id_host, "\nlxc:0x10:5\n" + LINE, "lxc\n" + LINE)
    assert pools.malformed == (
        "/etc/subuid, line 2, 'lxc:0x10:5': start and count have to be "
        "decimal integers",
        "/etc/subgid, line 1, 'lxc': expected owner:start:count",
    )
