# SPDX-License-Identifier: Apache-2.0
"""Calls that cross to the process that is root, and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from oslo_config import cfg

from lxc_userns import privileged
from lxc_userns.config import options
from lxc_userns.config.options import register_opts
from lxc_userns.config.values import read_values
from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    NeedsError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.linux import directory
from lxc_userns.nova import extra_specs
from lxc_userns.resources import partition
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from lxc_userns.subid import owners

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
MAPS = IdMaps(
    IdMap.parse("0:100000:10,10:200000:65526"), IdMap.parse("0:300000:65536")
)
RECORD = InstanceRecord(
    "web1",
    UUID,
    "/srv/web1",
    MAPS,
    Strategy.IDMAPPED,
    "/run/x/web1/root",
    dropped=("sys_rawio", "sys_resource"),
)


def across(value: Any) -> Any:
    """The same after the journey that oslo.privsep sends it on."""
    return msgpack.unpackb(msgpack.packb(value, use_bin_type=True), raw=False)


def test_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "find", lambda name: f"/machine/{name}")
    found = privileged._plain(PreparedInstance(RECORD))
    assert across(found) == found
    assert found == {
        "mode": "private",
        "mode_reasons": [],
        "uid_maps": [[0, 100000, 10], [10, 200000, 65526]],
        "gid_maps": [[0, 300000, 65536]],
        "root": "/run/x/web1/root",
        "needs_private_network": True,
        "dropped_capabilities": ["sys_rawio", "sys_resource"],
        "partition": "/machine/web1",
    }


def test_without_a_user_namespace() -> None:
    record = replace(
        RECORD, id_maps=None, strategy=Strategy.BIND, mode_reasons=("so",)
    )
    found = privileged._plain(PreparedInstance(record))
    assert (found["mode"], found["mode_reasons"]) == ("host", ["so"])
    assert (found["uid_maps"], found["gid_maps"]) == ([], [])
    assert found["dropped_capabilities"] == []


def test_a_request() -> None:
    specs = {
        "lxc_userns:mode": "private",
        "lxc_userns:range_size": "131072",
        "hw:cpu_policy": "shared",
    }
    request = {
        "name": "web1",
        "uuid": UUID,
        "rootfs": "/srv/web1/disk",
        "rootfs_kind": "image",
        **extra_specs.to_request(specs),
    }
    assert privileged._request(across(request)) == InstanceRequest(
        "web1",
        UUID,
        "/srv/web1/disk",
        needs=Requirements("private"),
        range_size=131072,
        rootfs_kind="image",
    )
    plain = {
        "name": "web1",
        "uuid": UUID,
        "rootfs": "/srv/web1/disk",
        "rootfs_kind": "directory",
    }
    assert privileged._request(
        {**plain, **extra_specs.to_request({})}
    ) == InstanceRequest(
        "web1", UUID, "/srv/web1/disk", rootfs_kind="directory"
    )


@pytest.mark.parametrize("said", [{}, {"rootfs_kind": None}])
def test_a_kind_is_not_guessed(said: dict[str, Any]) -> None:
    plain = {"name": "web1", "uuid": UUID, "rootfs": "/srv/web1/disk"}
    with pytest.raises(InstanceError, match="web1: rootfs_kind is missing"):
        privileged._request({**plain, **said})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("lxc_userns:mode", "", "is not private or host"),
        ("lxc_userns:mode", "Host", "is not private or host"),
        ("lxc_userns:range_size", "many", "is not a number"),
        ("lxc_userns:range_size", "-1", "is not a number"),
        ("lxc_userns:range_size", "\N{SUPERSCRIPT TWO}", "is not a number"),
    ],
)
def test_extra_specs_that_are_refused(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        extra_specs.to_request({name: value})
    assert str(caught.value).startswith(name)
    assert reason in str(caught.value)


def test_volumes() -> None:
    volume = Volume.parse("/srv/data:/data:none,ro")
    request = {"name": "web1", "volumes": [volume.to_dict()]}
    request |= {"uuid": UUID, "rootfs": "/srv/web1/disk"}
    request["rootfs_kind"] = "image"
    assert privileged._request(across(request)).volumes == (volume,)
    request["volumes"] = [Volume.parse("/srv/data:/data:owned").to_dict()]
    with pytest.raises(InstanceError, match="cannot choose the option owned"):
        privileged._request(across(request))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strategy", "chown"),
        ("strategy", ""),
        ("id_maps", {}),
        ("id_maps", [[0, 0, 1]]),
        ("max_processes", 0),
        ("max_processes", 4096),
        ("policy", "preferred"),
        ("userns_policy", None),
    ],
)
def test_what_a_service_cannot_choose(key: str, value: Any) -> None:
    request = {"name": "web1", "uuid": UUID, "rootfs": "/x"}
    request |= {"rootfs_kind": "image", key: value}
    with pytest.raises(InstanceError, match=f"cannot choose {key}"):
        privileged._request(request)
    if key in ("strategy", "id_maps", "max_processes"):
        assert privileged._request({**request, key: None}) is not None


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> cfg.ConfigOpts:
    """Run the helper in this process, with a configuration."""
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for name in ("state_path", "run_path"):
        conf.set_override(name, str(tmp_path / name), "lxc_userns")
    monkeypatch.setattr(cfg, "CONF", conf)
    # pytest's own directories are closed to others.
    monkeypatch.setattr(directory, "check_passable", lambda _path: None)
    monkeypatch.setattr(privileged.CONTEXT, "client_mode", False)
    return conf


def values(conf: cfg.ConfigOpts, **changed: str) -> dict[str, str]:
    found = read_values(conf)
    for name, value in changed.items():
        group = "libvirt" if name.endswith("_maps") else "lxc_userns"
        found[f"[{group}] {name}"] = value
    return across(found)  # type: ignore[no-any-return]


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


@pytest.mark.parametrize("verb", privileged._VERBS)
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_no_verb_serves_who_is_configured_in_another_way(
    in_process: cfg.ConfigOpts, verb: str, name: str
) -> None:
    configured = values(in_process, **{name: OTHER_VALUES[name]})
    with pytest.raises(ConfigError) as caught:
        privileged.perform(configured, verb, ["web1"])
    text = str(caught.value)
    assert f"] {name} is {OTHER_VALUES[name]!r} in the service" in text
    mine = read_values(in_process)
    (option,) = [each for each in mine if each.endswith(f"] {name}")]
    assert f"and {mine[option]!r} in its privileged helper" in text
    # As it crosses to the service.
    error = caught.value
    assert str(type(error)(*across(list(error.args)))) == text


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
        privileged.perform(configured, "find_problems", [])
    with pytest.raises(ConfigError, match="uid_maps is no option in the"):
        privileged.perform({}, "find_problems", [])


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\n", "-a"])
@pytest.mark.parametrize(
    "verb", ["reserve", "prepare", "verify", "detach", "release", "sync"]
)
def test_names_that_are_none(
    in_process: cfg.ConfigOpts, tmp_path: Path, verb: str, name: str
) -> None:
    in_process.set_override("roots", [str(tmp_path)], "lxc_userns_privileged")
    (tmp_path / "root").mkdir()
    request = {"name": name, "uuid": UUID, "rootfs": str(tmp_path / "root")}
    request["rootfs_kind"] = "directory"
    arguments: list[Any] = [name]
    if verb in ("reserve", "prepare"):
        arguments = [request]
    if verb == "verify":
        arguments.append(True)
    with pytest.raises(InstanceError, match="not a name"):
        privileged.perform(values(in_process), verb, arguments)


def test_a_verb_that_there_is_not(in_process: cfg.ConfigOpts) -> None:
    with pytest.raises(KeyError):
        privileged.perform(values(in_process), "clear", ["web1"])


def test_paths_where_the_service_may_not_be(
    in_process: cfg.ConfigOpts, tmp_path: Path
) -> None:
    root = tmp_path / "instances"
    root.mkdir()
    request = {"name": "web1", "uuid": UUID, "rootfs": str(root / "web1")}
    request["rootfs_kind"] = "directory"
    with pytest.raises(ConfigError, match=r"roots: is empty"):
        privileged.perform(values(in_process), "prepare", [request])
    in_process.set_override("roots", [str(root)], "lxc_userns_privileged")
    (root / "web1").mkdir()
    for changed in (
        {"rootfs": str(tmp_path)},
        {"volumes": [Volume.parse("/etc:/data").to_dict()]},
        {"needs": Requirements(devices=("/dev/kmsg",)).to_dict()},
    ):
        with pytest.raises(RootfsError, match="is not below"):
            privileged.perform(
                values(in_process), "prepare", [{**request, **changed}]
            )


def test_ids_of_a_user_of_the_host(
    in_process: cfg.ConfigOpts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "instances"
    (root / "web1").mkdir(parents=True)
    in_process.set_override("roots", [str(root)], "lxc_userns_privileged")
    for kind in ("uid_maps", "gid_maps"):
        in_process.set_override(kind, ["0:100000:65536"], "libvirt")
    for kind, names in (("user", {100007: "alice"}), ("group", {})):
        host = owners.IdOwnership(kind, names, ())
        monkeypatch.setattr(
            owners, f"read_host_{kind[0]}ids", lambda *_, host=host: host
        )
    held = "host IDs 100000-165535 are held by user alice"
    problems = privileged.find_problems()
    assert any(held in each for each in problems)
    request = {"name": "web1", "uuid": UUID, "rootfs": str(root / "web1")}
    request["rootfs_kind"] = "directory"
    for verb in ("reserve", "prepare"):
        with pytest.raises(ConfigError, match=held):
            privileged.perform(values(in_process), verb, [request])


def test_problems_of_the_helper_alone(in_process: cfg.ConfigOpts) -> None:
    problems = privileged.find_problems()
    assert any("roots: is empty" in each for each in problems)


def test_needs_that_are_none() -> None:
    request = {"name": "web1", "uuid": UUID, "rootfs": "/srv/web1"}
    request["rootfs_kind"] = "image"
    with pytest.raises(NeedsError):
        privileged._request({**request, "needs": {"mode": "x"}})
