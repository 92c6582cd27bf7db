# SPDX-License-Identifier: Apache-2.0
"""Services for systemd: what they do works with the rights that they have."""

from pathlib import Path

import pytest

from tests.functional.capabilities import TOOLS
from tests.functional.command_line import CommandLine
from tests.functional.conftest import CommandLineFactory

pytestmark = pytest.mark.needs("containers")

SYSTEMD = TOOLS.parent / "etc/systemd"


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    """The program, with each root filesystem idmapped."""
    return command_line("rootfs_strategy = idmapped\n")


def rights(unit: str) -> list[str]:
    """Return a prefix that runs a program with the rights of a service."""
    kept: list[str] = []
    dropped: list[str] = []
    for line in (SYSTEMD / f"{unit}.service").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "CapabilityBoundingSet":
            found = dropped if value.startswith("~") else kept
            found += value.lower().replace("cap_", "").lstrip("~").split()
    changes = [f"-{each}" for each in dropped]
    if kept:
        changes = ["-all", *(f"+{each}" for each in kept)]
    assert len(changes) > 5
    return ["setpriv", "--no-new-privs", f"--bounding-set={','.join(changes)}"]


def test_verification(cli: CommandLine, busybox_rootfs: Path) -> None:
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs)
    verify = "container", "verify", "web"
    prefix = rights("lxc-userns-verify")
    assert cli(*verify, prefix=prefix).code == 0
    # One that differs is destroyed.
    (record,) = (cli.state / "instances").glob("web.json")
    record.write_text(record.read_text().replace("65536", "65535"))
    assert cli(*verify, prefix=prefix).code == 1
    assert cli.json("container", "show", "web")["state"] == "stopped"


def test_garbage(cli: CommandLine, busybox_rootfs: Path) -> None:
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs)
    prefix = rights("lxc-userns-gc")
    done = cli("gc", "-f", "json", prefix=prefix)
    assert done.json() == []
    assert cli("container", "destroy", "web").code == 0
