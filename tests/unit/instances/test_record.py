# SPDX-License-Identifier: Apache-2.0
"""Records of instances."""

import errno
import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lxc_userns.exceptions import ConfigError, InstanceError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.store import InstanceStore
from lxc_userns.instances.verified import Verified
from lxc_userns.spec.requirements import Device, Requirements
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
UID, GID = IdMap.parse("0:100000:65536"), IdMap.parse("0:300000:65536")
PRIVATE = InstanceRecord(
    name="web1",
    uuid=UUID,
    rootfs="/srv/web1",
    id_maps=IdMaps(UID, GID),
    strategy=Strategy.CHOWN,
    view="/run/x/web1/root",
    dropped=("sys_resource",),
)
NEEDS = Requirements().to_dict()
MARK = {"time": 1, "boot_id": "x", "init_pid": 42, "init_start": 7}
HOST = replace(
    PRIVATE,
    name="web2",
    id_maps=None,
    strategy=Strategy.BIND,
    needs=Requirements(
        "host", ("network", "ipc"), ("sys_time",), ("/dev/net/tun",)
    ),
    devices=(Device("/dev/net/tun", "char"),),
    mode_reasons=("it asks for mode host", "it shares\nthe network"),
)
UNPACKED = replace(
    PRIVATE,
    strategy=Strategy.OVERLAY,
    reason="it was asked for",
    archive="/srv/web1.tar",
    ready=7,
    verified=Verified(1_800_000_000, "the-boot", 4242, 123_456),
    volumes=(
        Volume("/srv/data", "/data"),
        Volume("/srv/a:b", "/c", "none", readonly=True, nosuid=False),
    ),
)


@pytest.fixture
def store(tmp_path: Path) -> InstanceStore:
    return InstanceStore(str(tmp_path / "state"))


@pytest.mark.parametrize(
    "record", [PRIVATE, HOST, UNPACKED], ids=["private", "host", "unpacked"]
)
def test_round_trip(store: InstanceStore, record: InstanceRecord) -> None:
    assert store.load(record.name) is None
    store.save(record)
    assert store.load(record.name) == record
    store.remove(record.name)
    assert store.load(record.name) is None
    store.remove(record.name)


def test_mode_follows_from_the_maps() -> None:
    assert (PRIVATE.mode, HOST.mode) == ("private", "host")


def test_paths_need_not_be_text(store: InstanceStore) -> None:
    record = replace(PRIVATE, rootfs=os.fsdecode(b"/srv/\xff\n\"'"))
    store.save(record)
    assert store.load("web1") == record


def test_all_by_name(store: InstanceStore) -> None:
    assert store.load_all() == []
    store.save(HOST)
    store.save(PRIVATE)
    assert store.load_all() == [PRIVATE, HOST]


def test_reading_makes_nothing(store: InstanceStore, tmp_path: Path) -> None:
    store.load("web1")
    store.load_all()
    store.remove("web1")
    assert list(tmp_path.iterdir()) == []


def test_all_is_closed_to_others(store: InstanceStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store.save(PRIVATE)
        with store.lock("web1"):
            pass
    finally:
        os.umask(old)
    made = tmp_path / "state"
    for directory in (made, made / "instances", made / "locks"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    file = made / "instances/web1.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(p.name for p in file.parent.iterdir()) == ["web1.json"]


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_directory_open_to_others_is_refused(
    store: InstanceStore, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    for use in (
        lambda: store.load("web1"),
        store.load_all,
        lambda: store.save(PRIVATE),
    ):
        with pytest.raises(ConfigError, match=f"has mode {mode:04o}"):
            use()


def test_a_directory_of_others_is_refused(
    store: InstanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(PRIVATE)
    owner = (tmp_path / "state").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {owner}, it has"):
        store.load("web1")


def test_a_link_is_refused(store: InstanceStore, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"\[lxc_userns\] state_path"):
        store.save(PRIVATE)
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../x", "a b", "-x", ".x", "x" * 64, "ä", "a\n"],
)
def test_names_that_are_none(store: InstanceStore, name: str) -> None:
    for use in (store.load, store.remove, store.lock, store.lock_container):
        with pytest.raises(InstanceError, match="not a name"):
            use(name)
    with pytest.raises(InstanceError, match="not a name"):
        replace(PRIVATE, name=name)


@pytest.mark.parametrize("name", ["a", "0", "instance-00000001", "x" * 63])
def test_names(store: InstanceStore, name: str) -> None:
    store.save(replace(PRIVATE, name=name))
    assert [each.name for each in store.load_all()] == [name]


@pytest.mark.parametrize("uuid", ["", "x", UUID.upper(), f"{{{UUID}}}"])
def test_uuids_that_are_none(uuid: str) -> None:
    with pytest.raises(InstanceError, match="not a UUID in its usual form"):
        replace(PRIVATE, uuid=uuid)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"uid_maps": None}, "damaged"),
        ({"gid_maps": None}, "damaged"),
        ({"uid_maps": "0:0:1"}, "host ID 0"),
        ({"name": "web9"}, "name 'web9'"),
        (
            {"format": 5},
            r"newer version .*\(format 5, .* up to 4\); use",
        ),
        ({"format": -1}, "damaged: format -1"),
        ({"format": "5"}, "damaged: format '5'"),
        ({"identities": [1]}, r"\[1\] is no JSON object"),
        ({"empty": True}, "True is no JSON object"),
        ({"mode_reasons": None}, "damaged"),
        ({"max_processes": None}, "max_processes is no number"),
        ({"max_processes": True}, "max_processes is no number"),
        ({"max_processes": -1}, "max_processes -1: expected 0 to 4194304"),
        ({"mode_reasons": [1]}, "no text"),
        ({"security_model": 1}, "security_model is no text"),
        ({"dropped": None}, "damaged"),
        ({"dropped": [1]}, "no text"),
        ({"dropped": "sys_resource"}, "expected names of capabilities"),
        ({"dropped": ["sys_all"]}, "expected names of capabilities"),
        ({"needs": {}}, "damaged"),
        ({"needs": None}, "damaged"),
        ({"needs": NEEDS | {"mode": "none"}}, "not one of private, host"),
        ({"needs": NEEDS | {"mode": 1}}, "not one of private, host"),
        ({"needs": NEEDS | {"shared": "network"}}, "a sequence is expected"),
        ({"needs": NEEDS | {"shared": ["pid"]}}, "network, ipc, uts"),
        ({"needs": NEEDS | {"capabilities": ["all"]}}, "not one of"),
        ({"needs": NEEDS | {"devices": ["/etc"]}}, "not a path below /dev"),
        ({"devices": [{"path": "/dev/x", "kind": ""}]}, "neither char nor"),
        ({"devices": [{"path": "/dev/x"}]}, "damaged"),
        ({"reason": None}, "no text"),
        ({"archive": 1}, "no text"),
        ({"verified": True}, "damaged"),
        ({"verified": {}}, "damaged"),
        ({"verified": MARK | {"more": 1}}, "damaged"),
        ({"verified": MARK | {"init_start": "7"}}, "no integer"),
        ({"verified": MARK | {"init_start": None}}, "no integer"),
        ({"verified": MARK | {"boot_id": 7}}, "no text"),
        ({"rootfs_kind": "tape"}, "expected directory, image or archive"),
        ({"rootfs_kind": ["image"]}, "expected directory, image or archive"),
        ({"volumes": None}, "damaged"),
        ({"volumes": [{}]}, "damaged"),
        ({"volumes": [{"source": "/", "target": 1}]}, "damaged"),
        ({"uuid": 5}, "damaged"),
        ({"rootfs": None}, "damaged"),
        ({"strategy": "later"}, "damaged: 'later'"),
    ],
)
def test_a_damaged_record_is_never_a_weaker_promise(
    store: InstanceStore,
    tmp_path: Path,
    change: dict[str, object],
    reason: str,
) -> None:
    store.save(PRIVATE)
    file = tmp_path / "state/instances/web1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InstanceError, match=reason):
        store.load("web1")
    (found,) = store.load_all()
    assert isinstance(found, DamagedRecord)


def test_records_of_an_older_version(
    store: InstanceStore, tmp_path: Path
) -> None:
    store.save(PRIVATE)
    file = tmp_path / "state/instances/web1.json"
    data = json.loads(file.read_text())
    for version, keys in (
        (
            3,
            (
                "verified",
                "rootfs_kind",
                "max_processes",
                "dropped",
                "security_model",
            ),
        ),
        (2, ("needs", "devices", "mode_reasons")),
        (1, ("reason", "archive", "volumes")),
    ):
        for key in keys:
            del data[key]
        file.write_text(json.dumps(data | {"format": version}))
        assert store.load("web1") == PRIVATE
    file.write_text(json.dumps(data))
    with pytest.raises(InstanceError, match="damaged"):
        store.load("web1")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100000]
)
def test_what_is_no_record(
    store: InstanceStore, tmp_path: Path, content: bytes
) -> None:
    store.save(PRIVATE)
    (tmp_path / "state/instances/web1.json").write_bytes(content)
    with pytest.raises(InstanceError, match=r"damaged: .*; repair it"):
        store.load("web1")
    assert [each.name for each in store.load_all()] == ["web1"]


def test_a_failed_write_leaves_the_old_record(
    store: InstanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(PRIVATE)

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        store.save(replace(PRIVATE, rootfs="/other"))
    monkeypatch.undo()
    assert store.load("web1") == PRIVATE
    assert store.load_all() == [PRIVATE]


def test_threads_exclude_each_other(
    store: InstanceStore, tmp_path: Path
) -> None:
    inside: list[str] = []

    def work() -> None:
        with store.lock("web1"):
            inside.append("in")
            # If another thread got in, it shows here.
            assert inside.count("in") == inside.count("out") + 1
            inside.append("out")

    threads = [threading.Thread(target=work) for _ in range(8)]
    with store.lock("web1"):
        for thread in threads:
            thread.start()
        # No one got past the lock, and other names are free.
        assert inside == []
        with store.lock("web2"), store.lock_container("web1"):
            pass
    for thread in threads:
        thread.join(10)
    assert inside == ["in", "out"] * 8
    # No file is left of any lock.
    assert list((tmp_path / "state/locks").iterdir()) == []


def damage(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / f"state/instances/{name}.json").write_bytes(content)


def read_damaged(store: InstanceStore) -> DamagedRecord:
    good, found = store.load_all()
    assert good == PRIVATE
    assert isinstance(found, DamagedRecord)
    assert found.name == "web2"
    return found


VOLUMES = (
    Volume("/srv/shared", "/shared", readonly=True),
    Volume("/srv/own", "/own", "chown"),
)


def test_what_is_left_of_a_record(
    store: InstanceStore, tmp_path: Path
) -> None:
    """Of a newer one, as of one that is torn in the middle."""
    store.save(PRIVATE)
    maps = IdMaps(IdMap.parse("0:400000:65536"), IdMap.parse("0:500000:9"))
    rootfs = '/srv/we"b\udcff\\2'
    store.save(
        replace(
            PRIVATE,
            name="web2",
            rootfs=rootfs,
            id_maps=maps,
            volumes=VOLUMES,
        )
    )
    file = tmp_path / "state/instances/web2.json"
    whole = file.read_text()
    data = json.loads(whole)
    ids = (range(400000, 465536), range(500000, 500009))
    data["format"] = 5
    data["volumes"][1]["more"] = 1
    file.write_text(json.dumps(data))
    found = read_damaged(store)
    assert (found.ids, found.rootfs) == (ids, rootfs)
    assert (found.volumes, found.sources) == (VOLUMES[:1], ("/srv/own",))
    assert set(found.held_ids) == {
        (kind, each) for kind in ("uid", "gid") for each in ids
    }
    file.write_bytes(whole[: whole.index('"devices"')].encode() + b"\xff\0")
    found = read_damaged(store)
    assert (found.ids, found.rootfs) == (ids, rootfs)
    assert found.sources == ("/srv/shared", "/srv/own")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\0" * 4096,
        b"[" * 100000,
        b'{"uid_maps": 5, "rootfs": [], "volumes": {"source": 1}}',
        b'{"uid_maps": "0:x:1,0:1:99999999999", "volumes": [5]}',
        b'{"rootfs": "relative", "gid_maps": "0:1:"}',
        b'"rootfs": "\\ud8"',
    ],
)
def test_nothing_is_left_of_a_record(
    store: InstanceStore, tmp_path: Path, content: bytes
) -> None:
    store.save(PRIVATE)
    damage(tmp_path, "web2", content)
    found = read_damaged(store)
    assert (found.ids, found.rootfs, found.volumes) == ((), None, ())


@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "bad sector"])
def test_a_file_that_is_no_record(
    store: InstanceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    store.save(PRIVATE)
    file = tmp_path / "state/instances/web2.json"
    if kind == "link":
        file.symlink_to("web1.json")
    elif kind == "directory":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.touch()
        opened = os.open

        def fail(path: str, *args: int, **more: int) -> int:
            if path == "web2.json":
                raise OSError(errno.EIO, "Input/output error")
            return opened(path, *args, **more)

        monkeypatch.setattr(os, "open", fail)
    assert "is damaged" in read_damaged(store).reason
    with pytest.raises(InstanceError, match="is damaged"):
        store.load("web2")


def test_a_shortage_is_no_damage(
    store: InstanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that cannot be read now may hold IDs that are taken."""
    store.save(PRIVATE)
    opened = os.open

    def fail(path: str, *args: int, **more: int) -> int:
        if path == "web1.json":
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *args, **more)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ConfigError, match="Too many open files"):
        store.load_all()
