# SPDX-License-Identifier: Apache-2.0
"""Units of systemd that are shipped."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "etc/systemd"
#: Options of systemd.exec(5) with which a service gets a mount namespace.
OWN_MOUNTS = (
    "BindPaths", "InaccessiblePaths", "MountAPIVFS", "PrivateDevices",
    "PrivateMounts", "PrivateTmp", "PrivateUsers", "ProcSubset",
    "ProtectControlGroups", "ProtectHome", "ProtectHostname",
    "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
    "ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths",
    "RootDirectory", "RootImage", "TemporaryFileSystem",
)  # fmt: skip


@pytest.mark.allow_subprocess
@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd"
)
def test_systemd_takes_them(tmp_path: Path) -> None:
    """The program is not where a distribution has it, so another has to do."""
    for name in ("lxc-userns-gc.service", "lxc-userns-gc.timer"):
        text = (UNITS / name).read_text()
        program = shutil.which("true") or ""
        changed = text.replace("/usr/bin/lxc-userns", program)
        assert (changed != text) == name.endswith(".service")
        (tmp_path / name).write_text(changed)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_views_are_unmounted_for_the_whole_host() -> None:
    """In a mount namespace of its own the service would not reach them."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / "lxc-userns-gc.service")
    service = parser["Service"]
    assert not {*service} & {*OWN_MOUNTS}
    assert service["NoNewPrivileges"] == "yes"
