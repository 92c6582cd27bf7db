# SPDX-License-Identifier: Apache-2.0
"""Units for systemd: in order, hardened, and of commands that are there."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from lxc_userns.cli.main import LxcUserns
from lxc_userns.containers.ending import STOPPED
from lxc_userns.spec.restart_policy import RestartPolicy

SYSTEMD = Path(__file__).parents[2] / "etc/systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
#: Each gives a mount namespace, in which no view is unmounted for the host.
WITH_MOUNTS = (
    "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem",
    "ProtectHome", "ProtectControlGroups", "ProtectKernelTunables",
    "ProtectKernelModules", "ProtectKernelLogs", "ProtectProc", "ProcSubset",
    "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "BindPaths",
    "TemporaryFileSystem", "RootDirectory", "StateDirectory",
    "PrivateUsers", "PrivateNetwork", "PrivateIPC", "ProtectHostname",
    "DynamicUser", "User", "MountFlags", "MountAPIVFS", "RootImage",
    "NoExecPaths", "ExecPaths",
)  # fmt: skip

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd"
)


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser


def test_each_service_has_a_timer() -> None:
    services = {each.stem for each in SERVICES if "@" not in each.stem}
    assert len(services) >= 2
    assert {each.stem for each in SYSTEMD.glob("*.timer")} == services


def test_each_restart_policy_has_a_service() -> None:
    policies = {*RestartPolicy} - {RestartPolicy.NO}
    units = {policy: f"lxc-userns-{policy}@.service" for policy in policies}
    assert {*units.values()} == {
        each.name for each in SERVICES if "@" in each.stem
    }
    for policy, unit in units.items():
        options = read(SYSTEMD / unit)["Service"]
        assert options["Restart"] == policy
        assert options["SuccessExitStatus"] == str(STOPPED)
        assert options["RestartPreventExitStatus"] == str(STOPPED)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda each: each.stem)
def test_a_command_that_is_there(unit: Path) -> None:
    options = read(unit)["Service"]
    for name in {"ExecStart", "ExecStartPre", "ExecStop"} & {*options}:
        program, *argv = options[name].split()
        assert program == "/usr/bin/lxc-userns"
        factory, _, rest = LxcUserns().command_manager.find_command(argv)
        rest = ["web1" if each == "%i" else each for each in rest]
        factory(LxcUserns(), None).get_parser("x").parse_args(rest)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda each: each.stem)
def test_it_is_in_the_namespaces_of_the_host(unit: Path) -> None:
    assert not {*WITH_MOUNTS} & {*read(unit)["Service"]}
    assert "NoNewPrivileges" in read(unit)["Service"]


@needs_systemd
@pytest.mark.allow_subprocess
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    copies = []
    for unit in (*SERVICES, *SYSTEMD.glob("*.timer")):
        # The program need not be installed.
        text = unit.read_text("utf-8").replace(
            "/usr/bin/lxc-userns ", "/bin/true "
        )
        text = "".join(
            line
            for line in text.splitlines(keepends=True)
            if not line.startswith("Documentation=")
        )
        copy = tmp_path / unit.name
        copy.write_text(text)
        copies.append(copy)
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", *copies],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line
            or "lxc-userns" in line]  # fmt: skip
    assert (done.returncode, said) == (0, [])


@needs_systemd
@pytest.mark.allow_subprocess
@pytest.mark.parametrize("unit", SERVICES, ids=lambda each: each.stem)
def test_exposure(unit: Path) -> None:
    """systemd's own measure, of 10, where most services of root have 9.6."""
    told = subprocess.run(
        ["systemd-analyze", "--help"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout
    if "--offline" not in told:
        pytest.skip("systemd before 250 looks at units that it has loaded")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=70",
         unit],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
