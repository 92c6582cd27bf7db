# SPDX-License-Identifier: Apache-2.0
"""The fast look-up of owners says the same as the slow one."""

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.shifting import worker_pool
from lxc_userns.rootfs.shifting.owners import Ids, Owners
from lxc_userns.rootfs.shifting.translation import Translation

UID = IdMap.parse("0:100000:1000,65534:200000:1")
GID = IdMap.parse("0:300000:65536")
ids = st.integers(0, 2**32 - 2) | st.integers(0, 320000)


def make(unmapped: str = "keep") -> Owners:
    step = Translation(None, IdMaps(UID, GID), unmapped).direct()
    return Owners(
        Ids(worker_pool.plain(step.uid)), Ids(worker_pool.plain(step.gid))
    )


@given(ids, ids)
def test_owner(uid: int, gid: int) -> None:
    owner = make()[uid, gid]
    new = UID.to_host(uid), GID.to_host(gid)
    assert owner.uid == (uid if new[0] is None else new[0])
    assert owner.gid == (gid if new[1] is None else new[1])
    assert owner.moves == ((owner.uid, owner.gid) != (uid, gid))
    assert owner.mapped == (
        UID.to_guest(owner.uid) is not None
        and GID.to_guest(owner.gid) is not None
    )


def test_nobody() -> None:
    table = make("nobody")
    owner = table[5000, 70000]
    assert (owner.uid, owner.gid) == (200000, 365534)
    assert (owner.moves, owner.mapped) == (True, False)
    # Whom an ACL or a capability names is no owner.
    assert table.uids.qualifier(5000) == 5000


def test_what_was_seen() -> None:
    table = make()
    for uid, gid in ((0, 0), (5000, 0), (0, 400000), (5000, 400000)):
        assert table[uid, gid] is table[uid, gid]
    assert (table.uids.unmapped, table.gids.unmapped) == ({5000}, {400000})
    assert table.uids.blocks >= {0}
    assert 400000 // 65536 in table.gids.blocks


def test_memory_is_bounded() -> None:
    table = make()
    for number in range(40_000):
        assert table[number, number].gid == 300000 + number
        assert len(table) <= 16384
        assert max(len(table.uids), len(table.gids)) <= 16384
    assert len(table.uids.unmapped) == 100
    assert not table.gids.unmapped
