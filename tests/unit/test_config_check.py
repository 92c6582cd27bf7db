# SPDX-License-Identifier: Apache-2.0
"""What ``config check`` says of the configuration on a host."""

import os
from pathlib import Path

import pytest
from oslo_config import cfg

from lxc_userns import config_check, hostids, own_paths
from lxc_userns.conf import register_opts
from lxc_userns.config_check import Finding, check_config, option
from lxc_userns.exceptions import ConfigError, PrerequisiteError
from lxc_userns.linux import directory
from lxc_userns.subid import parse

HIGH = "0:1900000000:65536"
CHECKS = dict(own_paths.CHECKS)
UID, GID = "[libvirt] uid_maps", "[libvirt] gid_maps"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, hostids.HostIds]:
    """The IDs of a host; put others in, as ``user`` and ``group``."""
    held = {kind: hostids.HostIds(kind, {}, ()) for kind in ("user", "group")}
    monkeypatch.setattr(hostids, "read_host_uids", lambda *_: held["user"])
    monkeypatch.setattr(hostids, "read_host_gids", lambda *_: held["group"])
    for name in own_paths.CHECKS:
        monkeypatch.setitem(own_paths.CHECKS, name, lambda _path: None)
    return held


def configure(
    uid: str = HIGH, gid: str = HIGH, **values: str
) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for name, text in (("uid_maps", uid), ("gid_maps", gid)):
        entries = text.split(",") if text else []
        conf.set_override(name, entries, "libvirt")
    for name, value in values.items():
        conf.set_override(name, value, "lxc_userns")
    return conf


def find(conf: cfg.ConfigOpts, severity: str) -> list[tuple[str, str]]:
    return [
        (each.option, each.message)
        for each in check_config(conf)
        if each.severity == severity
    ]


@pytest.mark.usefixtures("host")
def test_a_good_configuration() -> None:
    gives = "guest IDs 0-65535 are host IDs 1900000000-1900065535"
    assert check_config(configure()) == [
        Finding("info", UID, HIGH, gives),
        Finding("info", GID, HIGH, gives),
    ]


@pytest.mark.usefixtures("host")
def test_no_maps_at_all() -> None:
    (finding,) = check_config(configure("", ""))
    assert (finding.severity, finding.option) == (
        "warning",
        "[libvirt] uid_maps, gid_maps",
    )
    assert finding.message == "are empty: user namespaces are off"


@pytest.mark.usefixtures("host")
def test_every_problem_at_once() -> None:
    conf = configure("x,0:0:1", "", run_path="run", subid_owner="lxc")
    assert [name for name, _ in find(conf, "problem")] == [
        "[lxc_userns] run_path",
        UID,  # x is no entry
        UID,  # 0:0:1 maps to host ID 0
        GID,
        "[lxc_userns] subid_owner",
    ]


@pytest.mark.parametrize(
    ("names", "subuid", "holders"),
    [
        ({1899999999: "a", 1900065536: "b"}, "", []),
        ({1900000000: "alice"}, "", ["user alice (1900000000)"]),
        ({1900065535: "bob"}, "", ["user bob (1900065535)"]),
        (
            {},
            "carol:1900065535:1\n",
            ["the subordinate user IDs of carol (1900065535:1)"],
        ),
        ({}, "carol:1900065536:1\nlxc-userns:1900000000:65536\n", []),
    ],
)
def test_ids_that_others_hold(
    host: dict[str, hostids.HostIds],
    names: dict[int, str],
    subuid: str,
    holders: list[str],
) -> None:
    host["user"] = hostids.HostIds("user", names, *parse(subuid))
    expected = [
        (UID, f"host IDs 1900000000-1900065535 are held by {holder}")
        for holder in holders
    ]
    assert find(configure(), "problem") == expected


POOL = "[lxc_userns] subid_owner"
LINE = "lxc:2000000000:131072\n"


def set_pool(host: dict[str, hostids.HostIds], uid: str, gid: str) -> None:
    for kind, text in (("user", uid), ("group", gid)):
        host[kind] = hostids.HostIds(
            kind, {}, *parse(text), source=f"/etc/sub{kind[0]}id"
        )


def test_a_good_pool(host: dict[str, hostids.HostIds]) -> None:
    set_pool(host, LINE, LINE + "lxc:2000200000:65536\n")
    assert check_config(configure("", "", subid_owner="lxc")) == [
        Finding("info", POOL, value, message)
        for value, message in (
            ("2000000000:131072", "user IDs 2000000000-2000131071 are in the "
             "pool"),
            ("2", "the pool has user IDs for 2 leases of 65536"),
            ("2000000000:131072", "group IDs 2000000000-2000131071 are in "
             "the pool"),
            ("2000200000:65536", "group IDs 2000200000-2000265535 are in the "
             "pool"),
            ("3", "the pool has group IDs for 3 leases of 65536"),
        )
    ]  # fmt: skip


def test_pools_that_are_none(host: dict[str, hostids.HostIds]) -> None:
    set_pool(host, "", LINE.replace("131072", "65535"))
    conf = configure("", "", subid_owner="lxc")
    advice = "add the line lxc:1879048192:65536000 to /etc/sub"
    assert find(conf, "problem") == [
        (POOL, f"lxc has no subordinate user IDs in /etc/subuid; {advice}uid"),
        (
            POOL,
            "the 65535 subordinate group IDs of lxc in /etc/subgid have no "
            f"room for 65536; {advice}gid",
        ),
    ]


def test_what_is_unwise_about_a_pool(
    host: dict[str, hostids.HostIds],
) -> None:
    set_pool(host, "lxc:60000:600000\nbob:100000:5\n", LINE)
    conf = configure("", "", subid_owner="lxc", range_size="1000")
    held = "held by the subordinate user IDs of bob (100000:5)"
    found = find(conf, "warning")
    for (name, message), (option_name, part) in zip(
        found,
        [
            (POOL, "60000:5534 uses host IDs below 65536"),
            (POOL, "65536:594464 lies in 524288-1879048191"),
            (POOL, held),
            ("[lxc_userns] range_size", "fewer than 65536 IDs"),
        ],
        strict=True,
    ):
        assert name == option_name
        assert part in message
    assert find(conf, "problem") == []


@pytest.mark.usefixtures("host")
def test_a_pool_that_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(_owner: str = "") -> hostids.HostIds:
        raise PrerequisiteError("getsubids is not installed")

    monkeypatch.setattr(hostids, "read_host_gids", read)
    monkeypatch.setattr(config_check, "_check_files", tuple)
    conf = configure("", "", subid_owner="lxc")
    assert find(conf, "problem") == [(POOL, "getsubids is not installed")]


@pytest.mark.parametrize("owner", ["-g", "a:b", "a b", "#x", "a\nb"])
@pytest.mark.usefixtures("host")
def test_owners_that_are_none(owner: str) -> None:
    conf = configure("", "", subid_owner=owner)
    assert find(conf, "problem") == [
        (POOL, "the name or the number of a user is needed")
    ]


@pytest.mark.usefixtures("host")
def test_leases_too_small_for_a_terminal() -> None:
    conf = configure("", "", subid_owner="lxc", range_size="5")
    assert find(conf, "problem") == [
        (
            "[lxc_userns] range_size",
            "is too small: guest group 5 (tty) has to be mapped",
        )
    ]
    # It says nothing while there is no pool.
    assert find(configure(range_size="5"), "problem") == []


@pytest.mark.usefixtures("host")
def test_directories_that_a_start_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(0o755)
    conf = configure(run_path=str(run), state_path=str(tmp_path / "not/yet"))
    for name, check in CHECKS.items():
        monkeypatch.setitem(own_paths.CHECKS, name, check)
    monkeypatch.setattr(directory, "check_passable", lambda _path: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find(conf, "problem") == [
        (
            "[lxc_userns] run_path",
            f"{run} has mode 0755, it may have 0711 at most; chmod 0711 {run}",
        )
    ]
    run.chmod(0o711)
    link = tmp_path / "link"
    link.symlink_to(run)
    conf.set_override("roots", [str(run), str(link)], "lxc_userns_privileged")
    ((name, message),) = find(conf, "problem")
    assert name == "[lxc_userns_privileged] roots"
    assert "is a symbolic link" in message
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find(conf, "problem") == []


def test_ids_that_others_hold_may_be_allowed(
    host: dict[str, hostids.HostIds],
) -> None:
    host["user"] = hostids.HostIds("user", {1900000001: "alice"}, ())
    (refused,) = find(configure(), "problem")
    conf = configure(held_ids="allow")
    assert find(conf, "warning") == [refused]
    assert find(conf, "problem") == []


def test_groups_are_compared_with_groups(
    host: dict[str, hostids.HostIds],
) -> None:
    host["group"] = hostids.HostIds("group", {1900000005: "staff"}, ())
    ((name, message),) = find(configure(), "problem")
    assert name == GID
    assert message.endswith("are held by group staff (1900000005)")


def test_many_holders_are_not_all_listed(
    host: dict[str, hostids.HostIds],
) -> None:
    names = {1900000000 + i: f"user{i}" for i in range(100)}
    host["user"] = hostids.HostIds("user", names, ())
    found = find(configure(), "problem")
    assert len(found) == 6
    assert found[-1][1].endswith("are held by 95 more")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("uid", "message"),
    [
        ("0:1900000000:65535", "fewer than 65536 IDs"),
        ("0:20000:65536", "uses host IDs below 65536"),
        ("0:600000:65536", "systemd hands out"),
        ("0:3000000000:65536", "uses host IDs above 2147483647"),
    ],
)
def test_warnings(uid: str, message: str) -> None:
    conf = configure(uid)
    ((name, text),) = find(conf, "warning")
    assert name == UID
    assert message in text
    assert find(conf, "problem") == []


def test_malformed_lines_are_warned_of(
    host: dict[str, hostids.HostIds],
) -> None:
    host["group"] = hostids.HostIds("group", {}, *parse("\nx:y\n"))
    (warning,) = [
        each
        for each in check_config(configure())
        if each.severity == "warning"
    ]
    assert (warning.option, warning.value) == ("/etc/subgid", "x:y")
    assert warning.message == (
        "line 2: expected owner:start:count; it is not heeded"
    )


def test_an_option_is_read_whatever_the_others_are_like() -> None:
    conf = configure("x", run_path="run")
    assert option(conf, "range_size") == 65536
    with pytest.raises(ConfigError, match=r"run_path = run: an absolute"):
        option(conf, "run_path")
