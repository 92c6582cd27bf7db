# SPDX-License-Identifier: Apache-2.0
"""Calls that cross to the process that is root, and back."""

import select
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from lxml import etree
from oslo_config import cfg
from oslo_privsep import comm
from oslo_privsep import daemon as privsep

from lxc_userns import privileged
from lxc_userns.config import options
from lxc_userns.config.options import register_opts
from lxc_userns.config.values import read_values
from lxc_userns.exceptions import (
    ArgumentError,
    ConfigError,
    InstanceError,
    LxcUsernsError,
    NeedsError,
    PrerequisiteError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.store import InstanceStore
from lxc_userns.libvirtd.client import Guests
from lxc_userns.nova import extra_specs
from lxc_userns.privileged import context, daemon, wire
from lxc_userns.resources import partition
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Device, Requirements
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from lxc_userns.verification import VerifiedInstance
from lxc_userns.verification.verifier import Verifier
from tests.unit.id_host import IdHost
from tests.unit.privileged.test_wire import across

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
MAPS = IdMaps(
    IdMap.parse("0:100000:10,10:200000:65526"), IdMap.parse("0:300000:65536")
)
RECORD = InstanceRecord(
    name="web1",
    uuid=UUID,
    rootfs="/srv/web1",
    id_maps=MAPS,
    strategy=Strategy.IDMAPPED,
    view="/run/x/web1/root",
    dropped=("sys_rawio", "sys_resource"),
)


def request(**fields: Any) -> InstanceRequest:
    given = {"rootfs": "/srv/web1/disk", "rootfs_kind": "image", **fields}
    return InstanceRequest(name="web1", uuid=UUID, **given)


@pytest.mark.parametrize(
    ("specs", "fields"),
    [
        ({}, {}),
        (
            {
                "lxc_userns:mode": "private",
                "lxc_userns:range_size": "131072",
                "hw:cpu_policy": "shared",
            },
            {"needs": Requirements("private"), "range_size": 131072},
        ),
    ],
)
def test_what_a_flavor_asks_for(
    specs: dict[str, str], fields: dict[str, Any]
) -> None:
    assert request(**extra_specs.to_request(specs)) == request(**fields)


def test_a_kind_is_not_guessed(in_process: cfg.ConfigOpts) -> None:
    for verb in (privileged.allocate, privileged.prepare):
        with pytest.raises(
            InstanceError, match="web1: rootfs_kind is missing"
        ):
            verb(request(rootfs_kind=None))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("lxc_userns:mode", "", "is not private or host"),
        ("lxc_userns:mode", "Host", "is not private or host"),
        ("lxc_userns:range_size", "many", "is not a number"),
        ("lxc_userns:range_size", "-1", "is not a number"),
        ("lxc_userns:range_size", "\N{SUPERSCRIPT TWO}", "is not a number"),
        ("lxc_userns:range_size", "5", "expected 6..4294967294"),
        ("lxc_userns:range_size", "4294967295", "expected 6..4294967294"),
    ],
)
def test_extra_specs_that_are_refused(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(NeedsError) as caught:
        extra_specs.to_request({name: value})
    assert str(caught.value).startswith(name)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strategy", "chown"),
        ("id_maps", MAPS),
        ("max_processes", 0),
        ("max_processes", 4096),
        ("volumes", (Volume.parse("/srv/data:/data:owned"),)),
    ],
)
def test_what_a_service_cannot_choose(
    in_process: cfg.ConfigOpts, key: str, value: Any
) -> None:
    what = "the option owned" if key == "volumes" else key
    for verb in (privileged.allocate, privileged.prepare):
        with pytest.raises(InstanceError, match=f"cannot choose {what}"):
            verb(request(**{key: value}))


def test_each_field_is_somebody_s_to_choose() -> None:
    """A field that is added is the configuration's, until it is listed."""
    every = {each.name for each in fields(InstanceRequest)}
    assert every > daemon.CHOOSABLE
    left = every - daemon.CHOOSABLE
    assert left == {"id_maps", "max_processes", "strategy"}
    # What is left out is refused by its default.
    assert all(getattr(request(), name) is None for name in left)


@pytest.fixture
def tmp_path(passable_path: Path) -> Path:
    """A directory that users can pass through, as run_path has to be."""
    return passable_path


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[cfg.ConfigOpts]:
    """Run the helper in this process, with a configuration."""
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for name in ("state_path", "run_path"):
        conf.set_override(name, str(tmp_path / name), "lxc_userns")
    monkeypatch.setattr(cfg, "CONF", conf)
    privileged.CONTEXT.set_client_mode(False)
    (tmp_path / "instances").mkdir()
    conf.set_override(
        "roots", [str(tmp_path / "instances")], "lxc_userns_privileged"
    )
    daemon._manager.cache_clear()
    yield conf
    daemon._manager.cache_clear()
    privileged.CONTEXT.set_client_mode(True)


def keep(conf: cfg.ConfigOpts, record: InstanceRecord) -> None:
    """Make it a promise of the helper's."""
    InstanceStore(conf.lxc_userns.state_path).save(record)


def load(conf: cfg.ConfigOpts) -> InstanceRecord | None:
    return InstanceStore(conf.lxc_userns.state_path).load("web1")


def values(conf: cfg.ConfigOpts, **changed: str) -> dict[str, str]:
    found = read_values(conf)
    for name, value in changed.items():
        group = "libvirt" if name.endswith("_maps") else "lxc_userns"
        found[f"[{group}] {name}"] = value
    return found


OTHER_VALUES = {
    "uid_maps": "0:1:65536",
    "gid_maps": "0:1:65536",
    "subid_owner": "nova",
    "range_size": "1",
    "rootfs_strategy": "chown",
    "unmapped_ids": "error",
    "held_ids": "allow",
    "userns_policy": "preferred",
    "state_path": "/x",
    "run_path": "/x",
}


@pytest.mark.parametrize("verb", daemon.VERBS)
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_no_verb_serves_who_is_configured_in_another_way(
    in_process: cfg.ConfigOpts, verb: str, name: str
) -> None:
    configured = values(in_process, **{name: OTHER_VALUES[name]})
    with pytest.raises(ConfigError) as caught:
        daemon.perform(configured, verb, {})
    text = str(caught.value)
    assert f"] {name} is {OTHER_VALUES[name]!r} in the service" in text
    mine = read_values(in_process)
    (option,) = [each for each in mine if each.endswith(f"] {name}")]
    assert f"and {mine[option]!r} in its privileged helper" in text
    # As it crosses to the service.
    error = caught.value
    assert str(type(error)(*across(error.args))) == text


def test_every_option_is_compared(in_process: cfg.ConfigOpts) -> None:
    listed = {
        f"[{group}] {each.name}"
        for group, found in options.list_opts()
        for each in found
    }
    alone = "[lxc_userns_privileged] roots"
    assert {*read_values(in_process)} == listed - {alone}


def test_options_that_one_of_both_does_not_know(
    in_process: cfg.ConfigOpts,
) -> None:
    """One of them is of another version."""
    configured = {**values(in_process), "[lxc_userns] new": "1"}
    with pytest.raises(ConfigError, match="'1' in the service, and no option"):
        daemon.perform(configured, "find_problems", {})
    with pytest.raises(ConfigError, match="uid_maps is no option in the"):
        daemon.perform({}, "find_problems", {})


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\n", "-a"])
def test_names_that_are_none(
    in_process: cfg.ConfigOpts, tmp_path: Path, name: str
) -> None:
    asked = replace(request(rootfs=str(tmp_path / "instances")), name=name)
    for verb in (privileged.allocate, privileged.prepare):
        with pytest.raises(InstanceError, match="not a name"):
            verb(asked)
    calls: tuple[Callable[[str], object], ...] = (
        privileged.prepare,
        partial(privileged.verify, started=True),
        privileged.unmount,
        privileged.release,
        privileged.sync,
    )
    for call in calls:
        with pytest.raises(InstanceError, match="not a name"):
            call(name)


@pytest.mark.parametrize("verb", ["clear", "perform", "", "__import__"])
def test_a_verb_that_there_is_not(
    in_process: cfg.ConfigOpts, verb: str
) -> None:
    with pytest.raises(
        ArgumentError, match=r"^perform: verb .*; give all|: give all"
    ):
        daemon.perform(values(in_process), verb, {"name": "web1"})


@pytest.mark.parametrize("junk", [None, 5, b"x", [], {}, {"x": 1}, {5: "x"}])
def test_a_client_that_sends_something_else(
    in_process: cfg.ConfigOpts, junk: Any
) -> None:
    mine = values(in_process)
    calls = [(mine, junk, {}), *((mine, verb, junk) for verb in daemon.VERBS)]
    for configured, verb, arguments in calls:
        if (verb, arguments) == ("find_problems", {}):
            continue
        with pytest.raises(ArgumentError):
            daemon.perform(configured, verb, arguments)
    with pytest.raises(LxcUsernsError):
        daemon.perform(junk, "find_problems", {})


def test_paths_where_the_service_may_not_be(
    in_process: cfg.ConfigOpts, tmp_path: Path
) -> None:
    root = tmp_path / "instances"
    asked = request(rootfs=str(root / "web1"), rootfs_kind="directory")
    (root / "web1").mkdir()
    for changed in (
        {"rootfs": str(tmp_path)},
        {"volumes": (Volume.parse("/etc:/data"),)},
        {"needs": Requirements(devices=("/dev/kmsg",))},
    ):
        with pytest.raises(RootfsError, match="is not below"):
            privileged.prepare(replace(asked, **changed))
    with pytest.raises(RootfsError, match="is not below"):
        privileged.allocate(
            replace(asked, needs=Requirements(devices=("/dev/kmsg",)))
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"rootfs": "/srv/other"},
        {"archive": "/srv/other.tar"},
        {"volumes": (Volume.parse("/etc:/data"),)},
        {"devices": (Device("/dev/kmsg", "char"),)},
    ],
)
def test_an_instance_of_others_is_not_prepared_by_its_name(
    in_process: cfg.ConfigOpts, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """The command line takes files from anywhere, and a service does not."""
    record = replace(RECORD, rootfs=str(tmp_path / "instances/web1"))
    keep(in_process, replace(record, **changed))
    with pytest.raises(RootfsError, match="is not below"):
        privileged.prepare("web1")


def test_a_helper_without_roots(in_process: cfg.ConfigOpts) -> None:
    """It prepares nothing, and gives back what was prepared before."""
    in_process.set_override("roots", [], "lxc_userns_privileged")
    keep(in_process, RECORD)
    calls: tuple[tuple[Callable[..., object], object], ...] = (
        (privileged.prepare, request()),
        (privileged.allocate, request()),
        (privileged.prepare, "web1"),
    )
    for verb, argument in calls:
        with pytest.raises(ConfigError, match=r"roots: is empty"):
            verb(argument)
    privileged.sync("absent")


def test_another_instance_has_the_name(
    in_process: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guests, "find", lambda *_: None)
    keep(in_process, RECORD)
    mine = PreparedInstance(replace(RECORD, uuid=UUID.replace("0", "1")))
    calls: tuple[Callable[[PreparedInstance], object], ...] = (
        partial(privileged.verify, started=False),
        privileged.unmount,
        privileged.release,
    )
    for call in calls:
        with pytest.raises(InstanceError, match=UUID):
            call(mine)
    assert load(in_process) == RECORD


def test_what_a_client_says_was_promised_does_not_count(
    in_process: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InstanceRecord] = []
    found = VerifiedInstance("web1", "private", 1, "0:1:2", "0:1:2", True)

    def verify(
        _self: Verifier, record: InstanceRecord, *, started: bool
    ) -> VerifiedInstance:
        assert started
        seen.append(record)
        return found

    monkeypatch.setattr(Verifier, "verify", verify)
    keep(in_process, RECORD)
    forged = replace(RECORD, id_maps=None, max_processes=0, rootfs="/")
    assert privileged.verify(PreparedInstance(forged), started=True) == found
    assert seen == [RECORD]


def test_one_manager_and_one_connection(in_process: cfg.ConfigOpts) -> None:
    for _ in range(3):
        privileged.sync("web1")
    used = daemon._manager.cache_info()
    assert (used.misses, used.hits) == (1, 2)
    assert daemon._manager()._guests is daemon._GUESTS
    # But the configuration counts as it is at each call.
    in_process.set_override("state_path", "relative", "lxc_userns")
    with pytest.raises(ConfigError, match="state_path"):
        privileged.sync("web1")


GONE = [
    FileNotFoundError(2, "No such file or directory", "sudo"),
    OSError("Premature eof waiting for privileged process"),
    privsep.FailedToDropPrivileges("exited non-zero (1)"),
    privsep.ProtocolError("Unexpected response"),
    comm.PrivsepTimeout(),
]


@pytest.mark.parametrize("error", GONE, ids=lambda it: type(it).__name__)
def test_a_helper_that_is_not_there(
    in_process: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def perform(*_: object) -> None:
        raise error

    monkeypatch.setattr(daemon, "perform", perform)
    with pytest.raises(type(error)):
        privileged.release("web1")
    privileged.CONTEXT.set_client_mode(True)
    with pytest.raises(
        PrerequisiteError, match="privileged helper: "
    ) as caught:
        privileged.release("web1")
    assert caught.value.__cause__ is error
    assert "[lxc_userns_privileged] helper_command" in str(caught.value)


@pytest.mark.filterwarnings(
    # What oslo.privsep's thread ends with.
    "ignore:.*privsep_reader:pytest.PytestUnhandledThreadExceptionWarning"
)
def test_a_helper_that_was_killed_with_a_call_unread() -> None:
    here, there = socket.socketpair()
    channel = comm.ClientChannel(here)
    end = Thread(target=context.end_with, args=(channel,))
    end.start()
    with here, ThreadPoolExecutor(1) as pool:
        # Without a watch over its end, that is an answer of its own.
        call = pool.submit(channel.send_recv, "call", timeout=60)
        while not select.select([there], [], [], 0)[0]:
            pass
        there.close()
        with pytest.raises(ConnectionResetError, match="helper was killed"):
            call.result()
        end.join()
        assert not channel.running


def test_a_helper_of_another_version(
    in_process: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "perform", lambda *_: {"record": {"new": 1}})
    with pytest.raises(PrerequisiteError, match="start the service again"):
        privileged.prepare("web1")


def test_what_comes_back_needs_no_privileges(
    in_process: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = across(wire.encode(PreparedInstance(RECORD)))
    monkeypatch.setattr(daemon, "perform", lambda *_: answer)
    monkeypatch.setattr(partition, "find", lambda name: f"/machine/{name}")
    found = privileged.prepare("web1")
    assert found == PreparedInstance(RECORD)
    xml = found.apply_to(
        "<domain type='lxc'><name>web1</name><memory>65536</memory>"
        "<os><type>exe</type><init>/sbin/init</init></os></domain>"
    )
    assert found.apply_to(xml) == xml
    root = etree.fromstring(xml)
    starts = [
        (each.get("start"), each.get("target"), each.get("count"))
        for each in root.iterfind("idmap/uid")
    ]
    assert starts == [("0", "100000", "10"), ("10", "200000", "65526")]
    (source,) = root.iterfind("devices/filesystem/source")
    assert source.get("dir") == "/run/x/web1/root"
    assert root.findtext("resource/partition") == "/machine/web1"
    (capabilities,) = root.iterfind("features/capabilities")
    assert capabilities.get("policy") == "deny"
    kept = {each.tag for each in capabilities}
    assert "chown" in kept
    assert kept.isdisjoint({"sys_rawio", "sys_resource"})


def test_ids_of_a_user_of_the_host(
    in_process: cfg.ConfigOpts, tmp_path: Path, id_host: IdHost
) -> None:
    root = tmp_path / "instances"
    (root / "web1").mkdir()
    for kind in ("uid_maps", "gid_maps"):
        in_process.set_override(kind, ["0:100000:65536"], "libvirt")
    id_host.users = {100007: "alice"}
    held = "host IDs 100000-165535 are held by user alice"
    problems = privileged.find_problems()
    assert any(held in each for each in problems)
    asked = request(rootfs=str(root / "web1"), rootfs_kind="directory")
    for verb in (privileged.allocate, privileged.prepare):
        with pytest.raises(ConfigError, match=held):
            verb(asked)


def test_problems_of_the_helper_alone(in_process: cfg.ConfigOpts) -> None:
    in_process.set_override("roots", [], "lxc_userns_privileged")
    problems = privileged.find_problems()
    assert any("roots: is empty" in each for each in problems)
