# SPDX-License-Identifier: Apache-2.0
"""Containers that tests run by the program."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine
from tests.functional.guest import loop_devices
from tests.waiting import wait_for

SLEEP = "/bin/sleep 1000"
UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
ALICE = 1000


@pytest.fixture
def cli(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> Iterator[CommandLine]:
    """The program; its containers are destroyed at the end."""
    made = CommandLine.make(tmp_path, reachable_path / "run")
    yield made
    for container in made.json("container", "list"):
        assert made("container", "destroy", container["name"]).code == 0
    assert made.mounts() == []
    assert list(made.state.glob("private/*")) == []
    assert loop_devices(tmp_path) == []


def run(
    cli: CommandLine, name: str, rootfs: Path, *options: str
) -> dict[str, object]:
    arguments = ["container", "run", name, "--rootfs", str(rootfs)]
    if "--init" not in options:
        arguments += ["--init", SLEEP]
    shown: dict[str, object] = cli.json(*arguments, *options)
    return shown


def stop(cli: CommandLine, name: str) -> None:
    assert cli("container", "stop", name, "--timeout", "0").code == 0


def end_domain(domain: libvirt.virDomain) -> None:
    """End a container by libvirt alone; its state counts.

    libvirt fails where systemd has removed its control groups before it.
    """
    with suppress(libvirt.libvirtError):
        domain.destroy()
    wait_for(lambda: not _is_active(domain))


def _is_active(domain: libvirt.virDomain) -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError:  # Gone with its end.
        return False


def pid_of(cli: CommandLine, name: str) -> int:
    return int(cli.json("container", "show", name)["init_pid"])
