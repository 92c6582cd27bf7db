# SPDX-License-Identifier: Apache-2.0
"""Judgements of the host check; what it tries is tried elsewhere."""

from pathlib import Path
from typing import cast

import pytest
from oslo_config import cfg

from lxc_userns import host, hostids
from lxc_userns.conf import register_opts
from lxc_userns.exceptions import LibvirtError, NotIdmappableError
from lxc_userns.guest import Guests
from lxc_userns.hostids import HostIds
from lxc_userns.linux.mounts import Mount
from lxc_userns.rootfs import probing
from lxc_userns.subid import parse


def mounted(**points: str) -> list[Mount]:
    return [
        Mount(number, f"/sys/fs/cgroup{name.replace('_', '/')}", kind)
        for number, (name, kind) in enumerate(points.items())
    ]


@pytest.mark.parametrize(
    ("found", "status", "message"),
    [
        (mounted(_="tmpfs", _memory="cgroup"), "ok", "version 1"),
        (
            mounted(_="tmpfs", _memory="cgroup", _systemd="cgroup"),
            "warning",
            "version 1: unless systemd-machined runs, libvirt makes "
            "/sys/fs/cgroup/systemd belong to the root",
        ),
        ([Mount(1, "/sys/fs/cgroup", "cgroup2")], "ok", "version 2"),
        (
            mounted(_memory="cgroup", _unified="cgroup2"),
            "failed",
            "hybrid, with version 2 on /sys/fs/cgroup/unified: libvirt "
            "cannot start",
        ),
        ([Mount(1, "/", "ext4")], "failed", "no cgroup filesystem"),
    ],
)
def test_cgroups(found: list[Mount], status: str, message: str) -> None:
    result = host.check_cgroups(found)
    assert result[0] == status
    assert result[1].startswith(message)


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("", "ok", "0 ranges"),
        ("a:100000:65536\na:100000:65536\n", "ok", "2 ranges"),
        ("a:100000:65536\nb:165536:65536\n", "ok", "2 ranges"),
        (
            "a:100000:65536\nb:165535:10\n",
            "warning",
            "a (line 1) and b (line 2) overlap",
        ),
        (
            "# shadow's\n\na:0x10:5\na:5\n",
            "warning",
            "line 3 is malformed: start and count have to be decimal "
            "integers; line 4 is malformed: expected owner:start:count",
        ),
    ],
)
def test_subordinate_ids(text: str, status: str, message: str) -> None:
    result = host.check_ids(HostIds("user", {}, *parse(text)))
    assert result[0] == status
    assert result[1].startswith(message)


@pytest.mark.parametrize(
    ("text", "status", "ids"),
    [
        ("", "warning", "100000-600100000"),
        ("SUB_UID_MIN 100000\nSUB_UID_MAX 524287\n", "ok", "100000-524287"),
        ("SUB_UID_MIN\t2000000000\nSUB_UID_MAX 2100000000", "ok",
         "2000000000-2100000000"),
        ("#SUB_UID_MAX 524287\n", "warning", "100000-600100000"),
        ("  SUB_UID_MAX 524288\n", "warning", "100000-524288"),
    ],
)  # fmt: skip
def test_range_for_new_users(text: str, status: str, ids: str) -> None:
    result = host.check_login_defs(text)
    assert result[0] == status
    assert f"gives new users IDs of {ids}" in result[1]


@pytest.mark.parametrize(
    ("owner", "text", "status", "message"),
    [
        ("", "", "ok", "none: [lxc_userns] subid_owner is empty"),
        (
            "lxc",
            "lxc:2000000000:131072\n",
            "ok",
            "the subordinate IDs of lxc give 2 leases of 65536",
        ),
        (
            "lxc",
            "lxc:2000000000:10\n",
            "failed",
            "the 10 subordinate user IDs of lxc in /etc/x have no room for "
            "65536; give it 65536 or more there that nobody has; the 10 "
            "subordinate group IDs of lxc in /etc/x have no room for 65536; "
            "give it 65536 or more there that nobody has",
        ),
    ],
)
def test_pool(
    owner: str,
    text: str,
    status: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in ("user", "group"):
        found = HostIds(kind, {}, *parse(text), source="/etc/x")
        name = f"read_host_{kind[0]}ids"
        monkeypatch.setattr(hostids, name, lambda _owner, found=found: found)
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("subid_owner", owner, "lxc_userns")
    assert host._check_pool(conf) == (status, message)


class NoGuests:
    def version(self) -> str:
        raise LibvirtError("connect to lxc:///", "no such socket")


def test_a_probe_that_raises_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("state_path", "relative", "lxc_userns")
    conf.set_override("run_path", "/nonexistent/run", "lxc_userns")
    monkeypatch.setattr(
        host, "_check_user_namespaces", lambda: ("ok", "as if")
    )
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(probing, "find_idmappable", list)
    checks = host.check_host(conf, cast(Guests, NoGuests()))
    found = {check.name: (check.status, check.message) for check in checks}
    assert found["root"] == ("failed", "this is user 1000; root is needed")
    assert found["libvirt"] == (
        "failed",
        "libvirt: connect to lxc:///: no such socket",
    )
    assert found["state_path"] == (
        "failed",
        "[lxc_userns] state_path = relative: an absolute path below / "
        "without '..' is needed",
    )
    assert found["overlays"] == found["state_path"]
    assert found["run_path"] == (
        "ok",
        "users of containers can pass through /",
    )


def test_filesystems_by_whether_they_can_be_idmapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    findings = [
        probing.Finding("/", "ext4", None),
        probing.Finding("/old", "ext3", "ext3 cannot; mount it as ext4"),
    ]
    monkeypatch.setattr(probing, "find_idmappable", lambda: findings)
    assert host.check_filesystems() == [
        host.Check("idmapped mounts on /", "ok", "ext4 can be idmapped"),
        host.Check(
            "idmapped mounts on /old",
            "warning",
            "ext3 cannot; mount it as ext4",
        ),
    ]

    def fail() -> list[probing.Finding]:
        raise OSError("the kernel makes none")

    monkeypatch.setattr(probing, "find_idmappable", fail)
    (check,) = host.check_filesystems()
    assert (check.name, check.status) == ("idmapped mounts", "warning")
    assert check.message.endswith("namespaces: the kernel makes none")


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (True, "ok", "can be made with their upper layer in /"),
        (False, "warning", "but this kernel spoils ACLs"),
        (
            NotIdmappableError("/x", "no overlay here"),
            "warning",
            "none with an upper layer in /: no overlay here",
        ),
        (
            OSError(30, "Read-only file system"),
            "warning",
            "not tried in /: Read-only file system",
        ),
    ],
)
def test_overlays(
    outcome: bool | Exception,
    status: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(path: str) -> bool:
        assert path == "/"
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(probing, "check_overlay", check)
    result = host._check_overlays(Path("/nonexistent/state"))
    assert result[0] == status
    assert message in result[1]
