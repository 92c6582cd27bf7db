# SPDX-License-Identifier: Apache-2.0
"""Everything is looked at, whatever is broken."""

from typing import NoReturn

import pytest
from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.findings import Finding, Severity
from lxc_userns.host import check_host, user_namespaces
from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.client import Guests
from lxc_userns.rootfs.views import probe

NAMES = [
    *("root", "kernel", "user namespaces", "number of user namespaces"),
    *("shared limits", "programs", "libvirt", "security driver"),
    *("session keyring", "cgroups"),
    *("state_path", "run_path", "mounts in run_path", "hook"),
    *("network driver", "bridges"),
    *("subordinate user IDs", "subordinate group IDs"),
    *("range for new users", "pool", "overlays", "idmapped mounts"),
]
CONFIGURE = "correct that option; lxc-userns config check has all of them"


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    made = cfg.ConfigOpts()
    register_opts(made)
    made([], default_config_files=[], default_config_dirs=[])
    made.set_override("state_path", "relative", "lxc_userns")
    made.set_override("run_path", "relative", "lxc_userns")
    return made


def connect() -> Guests:
    raise ImportError("libvirt.so.0: cannot open shared object file")


def break_down(*_: object, **__: object) -> NoReturn:
    raise OSError(5, "Input/output error")


@pytest.fixture
def broken(conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_namespaces, "SWITCHES", ())
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for name in (
        "lxc_userns.linux.syscalls.missing_syscalls",
        "subprocess.run",
        "lxc_userns.linux.ucounts.read",
        "lxc_userns.linux.mounts.read_mounts",
        "lxc_userns.host.cgroups.read_mounts",
        "lxc_userns.subid.owners.read_host_uids",
        "lxc_userns.subid.owners.read_host_gids",
    ):
        monkeypatch.setattr(name, break_down)
    monkeypatch.setattr(daemon, "find", lambda: None)
    monkeypatch.setattr(probe, "find_idmappable", break_down)
    conf.set_override("subid_owner", "lxc", "lxc_userns")


def test_nothing_raises(conf: cfg.ConfigOpts, broken: None) -> None:
    found = check_host(conf, connect)
    assert [check.code for check in found] == NAMES
    by_name = {check.code: check for check in found}
    assert by_name["root"].severity == Severity.ERROR
    for check in found:
        assert check.severity in (Severity.INFO, Severity.WARN, Severity.ERROR)
        assert bool(check.remedy) == (check.severity != Severity.INFO)
    assert by_name["libvirt"] == Finding(
        severity=Severity.ERROR,
        code="libvirt",
        subject="",
        message="libvirt.so.0: cannot open shared object file",
        remedy="install the library of libvirt (Debian package libvirt0)",
    )
    assert by_name["security driver"] == Finding(
        severity=Severity.WARN,
        code="security driver",
        subject="",
        message="libvirt.so.0: cannot open shared object file",
        remedy="see the check of libvirt",
    )
    for name in ("state_path", "run_path", "mounts in run_path", "overlays"):
        assert by_name[name].remedy == CONFIGURE
    for name in ("kernel", "user namespaces", "cgroups", "pool"):
        assert by_name[name].message == "Input/output error"
        assert by_name[name].severity == Severity.ERROR
    assert by_name["shared limits"].severity == Severity.WARN
