# SPDX-License-Identifier: Apache-2.0
"""Who holds which IDs of this host."""

import grp
import pwd
from pathlib import Path

import pytest

from lxc_userns import hostids
from lxc_userns.hostids import HostIds
from lxc_userns.subid import SubordinateRange

HELD = HostIds(
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


def test_reads_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_bytes(b"alice:100000:65536\nbroken\n\xff:300000:1\n")
    monkeypatch.setattr(hostids, "SUBUID", subuid)
    monkeypatch.setattr(hostids, "SUBGID", tmp_path / "absent")
    users = hostids.read_host_uids()
    assert users.kind == "user"
    assert users.names[0] == pwd.getpwuid(0).pw_name
    assert users.subordinates == (
        SubordinateRange("alice", 100000, 65536, 1),
        SubordinateRange("\udcff", 300000, 1, 3),
    )
    assert [each.line for each in users.malformed] == [2]
    groups = hostids.read_host_gids()
    assert groups.kind == "group"
    assert groups.names[0] == grp.getgrgid(0).gr_name
    assert groups.subordinates == ()
    assert groups.malformed == ()
