# SPDX-License-Identifier: Apache-2.0
"""Everything is looked at, whatever is broken."""

from dataclasses import replace
from typing import NoReturn

import pytest
from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.findings import Finding, Severity
from lxc_userns.host import filesystems, user_namespaces
from lxc_userns.host.check import Probe
from lxc_userns.host.checklist import list_probes
from lxc_userns.libvirtd.client import Guests

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


#: What cannot work by the configuration and the connection above.
BROKEN = (
    *("libvirt", "security driver", "state_path", "run_path"),
    *("mounts in run_path", "network driver", "overlays"),
)


def look(probe: Probe) -> Finding:
    """Look at something, whose look comes to nothing."""
    if probe.name not in BROKEN:
        probe = replace(probe, run=break_down)
    return probe.check()


def test_nothing_raises(conf: cfg.ConfigOpts) -> None:
    probes = list_probes(Settings.from_conf(conf), connect)
    found = [look(each) for each in probes]
    found += filesystems.check_all(break_down)
    # These are of some distributions.
    switches = {each.name for each in user_namespaces.SWITCHES}
    found = [check for check in found if check.code not in switches]
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
