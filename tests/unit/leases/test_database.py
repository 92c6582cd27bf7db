# SPDX-License-Identifier: Apache-2.0
"""The database of leases: one step at a time, and what it refuses."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.exceptions import ConfigError, IdMapError, LeaseError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases import Lease, LeaseStore, ShiftedTree, database

S = 65536
BASE = 2_000_000_000
UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
OTHER_UUID = "5dce174d-7133-416f-be8b-e0fc2fac55de"


def lease(name: str, number: int, count: int = S) -> Lease:
    start = BASE + number * S
    return Lease(
        instance=name,
        uuid=None,
        uid_start=start,
        gid_start=start + S * 1000,
        count=count,
        acquired=1000,
    )


@pytest.fixture
def store(tmp_path: Path) -> LeaseStore:
    return LeaseStore(str(tmp_path / "state"))


def add(store: LeaseStore, *leases: Lease) -> None:
    with store.write() as table:
        for each in leases:
            table.add(each)


def held(store: LeaseStore) -> list[Lease]:
    with store.read() as table:
        return table.all()


def test_looking_makes_nothing(store: LeaseStore, tmp_path: Path) -> None:
    assert held(store) == []
    with store.write(keep=False) as table:
        table.add(lease("web", 0))
        assert table.get("web") == lease("web", 0)
    assert not store.exists
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept(store: LeaseStore, tmp_path: Path) -> None:
    add(store, lease("web", 1), lease("db", 0))
    assert held(store) == [lease("db", 0), lease("web", 1)]
    with store.read() as table:
        assert table.get("web") == lease("web", 1)
        assert table.get("nobody") is None
    with store.write(keep=False) as table:
        table.remove(lease("web", 1))
        assert table.get("web") is None
    assert len(held(store)) == 2
    assert store.exists
    file = tmp_path / "state/leases.sqlite3"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_an_error_keeps_nothing(store: LeaseStore) -> None:
    add(store, lease("web", 1))

    def fail() -> None:
        with store.write() as table:
            table.add(lease("db", 0))
            table.remove(lease("web", 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held(store) == [lease("web", 1)]
    with store.read() as table:
        assert table.used("uid") == IdSet((lease("web", 1).ids("uid"),))
        assert [*table.released("uid")] == []


@pytest.mark.parametrize(
    "other",
    [
        lease("web", 5),
        replace(lease("db", 5), uuid=UUID),
        # Any ID of either kind, at either end, within, around.
        lease("db", 1),
        replace(lease("db", 5), uid_start=BASE + S + 1),
        replace(lease("db", 5), uid_start=BASE + 2 * S - 1),
        replace(lease("db", 5), uid_start=BASE + S + 5, count=10),
        replace(lease("db", 5), uid_start=BASE, count=3 * S),
        replace(lease("db", 5), gid_start=BASE + 1001 * S - 1),
        replace(lease("db", 5), gid_start=BASE + 1000 * S, count=S + 1),
        replace(lease("db", 5), gid_start=BASE + 900 * S, count=500 * S),
        replace(lease("db", 5), uid_start=0),
        replace(lease("db", 5), count=0),
    ],
)
def test_what_the_database_refuses(store: LeaseStore, other: Lease) -> None:
    first = replace(lease("web", 1), uuid=UUID)
    add(store, first)
    with pytest.raises(LeaseError, match="no such lease can be given"):
        add(store, other)
    assert held(store) == [first]


def test_a_uuid_that_another_instance_has(store: LeaseStore) -> None:
    add(store, replace(lease("web", 1), uuid=UUID))
    with pytest.raises(LeaseError, match="is that of web, which has one") as e:
        add(store, replace(lease("db", 5), uuid=UUID))
    assert str(e.value).endswith("run: lxc-userns lease release web")


def test_a_lease_does_not_change(store: LeaseStore, tmp_path: Path) -> None:
    add(store, lease("web", 1))
    file = tmp_path / "state/leases.sqlite3"
    with (
        closing(sqlite3.connect(file)) as database,
        pytest.raises(sqlite3.IntegrityError, match="does not change"),
    ):
        database.execute("UPDATE lease SET uid_start = 1")


def test_renewing(store: LeaseStore) -> None:
    add(store, lease("web", 0), lease("db", 1))
    with store.write() as table:
        missing = replace(lease("web", 0), unknown_since=5000)
        table.restore(missing)
        assert table.get("web") == missing
        table.confirm("web", UUID)
        assert table.get("web") == replace(lease("web", 0), uuid=UUID)
        # A UUID stays; and one that is known is not asked for again.
        table.confirm("web", OTHER_UUID)
        table.confirm("web", None)
        assert table.get("web") == replace(lease("web", 0), uuid=UUID)
        table.confirm("nobody", None)
        with pytest.raises(LeaseError, match=r"db: .*uuid"):
            table.confirm("db", UUID)


def test_who_has_any_of_these(store: LeaseStore) -> None:
    first, second = lease("a", 0), lease("b", 1, 10)
    add(store, second, first)
    with store.read() as table:
        for ids, found in (
            (range(BASE), []),
            (range(BASE, BASE + 1), [first]),
            (range(BASE + S - 1, BASE + S + 1), [first, second]),
            (range(BASE + S + 10, BASE + 9 * S), []),
            (range(1, 2**32 - 1), [first, second]),
        ):
            assert table.overlapping("uid", ids) == found
        assert table.overlapping("gid", range(BASE, BASE + S)) == []


def test_history(store: LeaseStore) -> None:
    leases = [lease(name, number) for number, name in enumerate("abc")]
    add(store, *leases)
    everything = IdSet((range(BASE, BASE + 3 * S),))
    with store.write() as table:
        assert table.used("uid") == everything
        assert len(table.used("gid")) == 3 * S
        table.remove(leases[1])
        table.remove(leases[0])
        assert table.used("uid") == everything
        assert [*table.released("uid")] == [
            leases[1].ids("uid"),
            leases[0].ids("uid"),
        ]
        # Part of two of them is leased again.
        table.add(replace(lease("d", 0), uid_start=BASE + S - 10, count=20))
        assert [*table.released("uid")] == [
            range(BASE + S + 10, BASE + 2 * S),
            range(BASE, BASE + S - 10),
        ]
        assert table.used("uid") == everything


def test_shifted_trees(store: LeaseStore) -> None:
    first, second = lease("", 0).ids("uid"), lease("", 1).ids("uid")
    trees = [
        ShiftedTree("/a", "uid", first),
        ShiftedTree("/a", "uid", second),
        ShiftedTree("/b", "gid", first),
    ]
    with store.write() as table:
        for tree in (*reversed(trees), trees[0]):
            table.note_tree(tree)
        table.add(lease("web", 1))
        assert table.trees() == trees
        # That of a lease that is held is no one's business.
        assert table.released_trees() == [trees[0], trees[2]]
        table.forget_trees([trees[0]])
    with store.read() as table:
        assert table.trees() == trees[1:]


def test_ids_of_another_instance(store: LeaseStore) -> None:
    add(store, lease("web", 0))
    uid, gid = lease("web", 0).ids("uid"), lease("web", 0).ids("gid")
    other = IdMap.parse("0:100000:10,20:200000:5")
    with store.read() as table:
        table.check_unleased("old", IdMaps(other, other))
        table.check_unleased("web", lease("web", 0).id_maps)
        for text in (f"0:{uid.stop - 1}:6", f"0:{uid.start - 5}:6"):
            maps = IdMaps(IdMap.parse(text), other)
            with pytest.raises(LeaseError, match=f"old: .*{text}.* web "):
                table.check_unleased("old", maps)
        maps = IdMaps(other, IdMap.parse(f"0:{gid.start}:6"))
        with pytest.raises(LeaseError, match="leased to the instance web"):
            table.check_unleased("old", maps)


def test_what_was_had_without_a_lease(store: LeaseStore) -> None:
    """It is not new any more, and what is leased of it stays leased."""
    add(store, lease("web", 1))
    uid = IdMap.parse(f"0:{BASE}:{3 * S}")
    with store.write() as table:
        table.mark_used(IdMaps(uid, IdMap.parse("0:5:9")))
        assert table.used("uid") == IdSet((range(BASE, BASE + 3 * S),))
        assert [*table.released("uid")] == [
            range(BASE, BASE + S),
            range(BASE + 2 * S, BASE + 3 * S),
        ]
        assert [*table.released("gid")] == [range(5, 14)]
        # Again makes it the last to be released, and no more.
        table.mark_used(
            IdMaps(IdMap.parse(f"0:{BASE}:{S}"), IdMap.parse("0:5:9"))
        )
        assert [*table.released("uid")] == [
            range(BASE + 2 * S, BASE + 3 * S),
            range(BASE, BASE + S),
        ]
        assert table.all() == [lease("web", 1)]


def test_id_maps_of_a_lease() -> None:
    maps = lease("web", 0).id_maps
    assert str(maps.uid) == f"0:{BASE}:{S}"
    assert str(maps.gid) == f"0:{BASE + S * 1000}:{S}"
    with pytest.raises(IdMapError, match="tty"):
        _ = lease("web", 0, 5).id_maps
    assert lease("web", 0).is_for(maps)
    assert not lease("web", 0).is_for(lease("web", 1).id_maps)
    assert not lease("web", 0).is_for(None)
    assert str(lease("web", 0)) == (
        f"{S} IDs, users from {BASE} on, groups from {BASE + S * 1000} on"
    )


def overwrite(file: Path) -> None:
    file.write_bytes(b"x" * 4096)


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_later(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 9")


def forget_version(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 0")


def break_text(file: Path) -> None:
    """SQLite quotes what it cannot read, which is no text then."""
    data = file.read_bytes()
    file.write_bytes(
        data.replace(b"CREATE TABLE lease", b"CRE\xffTE TABLE lease")
    )


def open_to_others(file: Path) -> None:
    file.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite, "not a database; it is damaged: restore a backup"),
        (make_directory, "leases.sqlite3"),
        (make_later, r"has version 9, this .* knows 1: .* a newer version"),
        (forget_version, "it has tables, and no version; it is damaged"),
        (break_text, "it is damaged: restore a backup"),
        (open_to_others, "0755"),
    ],
)
def test_a_database_that_cannot_be_used(
    store: LeaseStore,
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    add(store, lease("web", 0))
    damage(tmp_path / "state/leases.sqlite3")
    for opened in (store.write(), store.read()):
        with pytest.raises(ConfigError, match=message) as raised, opened:
            raise AssertionError
        assert raised.value.option == "[lxc_userns] state_path"
        assert "leases.sqlite3" in str(raised.value)


def test_a_link_is_not_followed(store: LeaseStore, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "elsewhere").touch()
    (tmp_path / "state/leases.sqlite3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symbolic link"):
        add(store, lease("web", 0))
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_an_empty_file_is_as_none(store: LeaseStore, tmp_path: Path) -> None:
    """It is left if it was made and the first step never done."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state/leases.sqlite3").touch()
    assert held(store) == []
    add(store, lease("web", 0))
    assert held(store) == [lease("web", 0)]


def test_one_after_the_other(store: LeaseStore) -> None:
    """Threads that each take the next number, and lose none."""

    def take(name: str) -> None:
        with store.write() as table:
            number = len(table.all())
            table.add(lease(name, number))

    threads = [
        threading.Thread(target=take, args=(f"t{number}",))
        for number in range(16)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.uid_start for each in held(store)] == [
        BASE + number * S for number in range(16)
    ]


steps = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=30
)


@given(steps)
def test_a_model(steps: list[tuple[str, int]]) -> None:
    """Any order of steps, against the simplest thing that could be right."""
    leases: dict[str, range] = {}
    used: set[int] = set()
    released: list[set[int]] = []
    store = LeaseStore("/nonexistent")
    with store.write(keep=False) as table:
        for name, number in steps:
            if name in leases:
                lease = table.get(name)
                assert lease is not None
                assert lease.ids("uid") == leases.pop(name)
                table.remove(lease)
                released.append(set(lease.ids("uid")))
                continue
            ids = range(number + 1, number + 2 + number % 5)
            lease = Lease(
                instance=name,
                uuid=None,
                uid_start=ids.start,
                gid_start=ids.start,
                count=len(ids),
                acquired=0,
            )
            if any(set(ids) & set(other) for other in leases.values()):
                with pytest.raises(LeaseError):
                    table.add(lease)
                continue
            table.add(lease)
            leases[name] = ids
            used |= set(ids)
            released = [each - set(ids) for each in released]
        assert {n for each in table.used("gid") for n in each} == used
        assert [n for each in table.released("gid") for n in each] == [
            number for each in released for number in sorted(each)
        ]
        assert {e.instance: e.ids("uid") for e in table.all()} == leases


def test_another_makes_the_first_while_it_is_looked_at(
    tmp_path: Path,
) -> None:
    """Two questions are asked of it, and one answer is to be had of both."""
    file = tmp_path / "leases.sqlite3"
    said = []

    def make(statement: str) -> None:
        if "sqlite_schema" in statement:
            with closing(sqlite3.connect(file, timeout=0)) as other:
                try:
                    other.execute("CREATE TABLE lease (instance TEXT)")
                    other.execute("PRAGMA user_version = 1")
                except sqlite3.OperationalError as err:
                    said.append(str(err))

    with closing(sqlite3.connect(file, isolation_level=None)) as one:
        one.set_trace_callback(make)
        database._check_version(one)
    assert said == ["database is locked"]
