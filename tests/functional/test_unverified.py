# SPDX-License-Identifier: Apache-2.0
"""Containers whose start was cut short before they were verified."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine
from tests.functional.guest import execute

pytestmark = pytest.mark.needs("containers")

#: Verification that kills its own process, as a crash at that moment would.
KILLED = """
import os, signal, sys
from lxc_userns.{module} import {name}
def killed(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)
{name}.{function} = killed
from lxc_userns.cli.main import main
main(sys.argv[1:])
"""
#: Before the container was looked at; when all is done but the record of it.
AT_FIRST = {
    "module": "verification.verifier",
    "name": "Verifier",
    "function": "verify",
}
AT_LAST = {
    "module": "instances.store",
    "name": "InstanceStore",
    "function": "save",
}
LIMITS = "/proc/sys/user/max_inotify_instances"
INIT = ("--init", "/bin/sleep 1000")


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("")


def crash(cli: CommandLine, where: dict[str, str], *arguments: object) -> None:
    """Call the program; it is killed where it verifies."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(**where), "--config-file",
         cli.config, *map(str, arguments)],
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done


def crashed_run(cli: CommandLine, rootfs: Path) -> None:
    crash(cli, AT_FIRST, "container", "run", "web1", "--rootfs", rootfs, *INIT)


def state(cli: CommandLine) -> str:
    (listed,) = cli.json("container", "list")
    shown = cli.json("container", "show", "web1")
    assert listed["state"] == shown["state"]
    return str(shown["state"])


def inotify_limit(cli: CommandLine) -> int:
    """The limit of the container, as its root sees it."""
    pid = cli.json("container", "show", "web1")["init_pid"]
    return int(execute(pid, "/bin/busybox", "cat", LIMITS).stdout)


def mark(cli: CommandLine) -> dict[str, object] | None:
    record = json.loads((cli.state / "instances/web1.json").read_text())
    found: dict[str, object] | None = record["verified"]
    return found


def test_a_crash_between_start_and_verification(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    hosts = int(Path(LIMITS).read_text())
    crashed_run(cli, busybox_rootfs)
    assert state(cli) == "unverified"
    assert mark(cli) is None
    # No limit yet: the kernel gives each namespace the highest number.
    assert inotify_limit(cli) > hosts
    started = cli.json("container", "start", "web1")
    assert started["state"] == state(cli) == "running"
    assert inotify_limit(cli) == hosts // 2
    verified = mark(cli)
    assert verified is not None
    assert verified["init_pid"] == started["init_pid"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert verified["boot_id"] == boot
    error = cli("container", "start", "web1").error()
    assert error == "web1: is running already"


def test_verify_says_it_and_finishes_it(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    crashed_run(cli, busybox_rootfs)
    for previous in ("unverified", "running"):
        found = cli.json("container", "verify", "web1")
        assert found["previous_state"] == previous
        assert state(cli) == "running"


def test_a_crash_of_a_later_start(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """The mark of the start before does not count."""
    cli.json("container", "run", "web1", "--rootfs", busybox_rootfs, *INIT)
    assert mark(cli) is not None
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    crash(cli, AT_FIRST, "container", "start", "web1")
    assert (state(cli), mark(cli)) == ("unverified", None)


def test_a_crash_before_the_record_is_written(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    crashed_run(cli, busybox_rootfs)
    crash(cli, AT_LAST, "container", "verify", "web1")
    assert state(cli) == "unverified"


def test_what_is_not_as_promised_is_ended(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli.json("container", "run", "web1", "--rootfs", busybox_rootfs, *INIT)
    for verb, *arguments in (
        ("start", "web1"),
        ("run", "web1", "--rootfs", str(busybox_rootfs)),
    ):
        assert cli("container", "stop", "web1", "--timeout", "0").code == 0
        domain = libvirt_connection.lookupByName("web1")
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        changed = xml.replace("<sys_nice state", "<sys_resource state")
        libvirt_connection.defineXML(changed)
        crash(cli, AT_FIRST, "container", "start", "web1")
        assert state(cli) == "unverified"
        error = cli("container", verb, *arguments).error()
        assert error == (
            "web1: it may have CAP_SYS_RESOURCE; it was destroyed"
        )
        assert state(cli) == "stopped"
        assert not domain.isActive()
        assert cli.mounts() == []
        libvirt_connection.defineXML(xml)
        cli.json("container", "start", "web1")


def test_run_of_a_name_that_runs_unverified(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    crashed_run(cli, busybox_rootfs)
    again = ("container", "run", "web1", "--rootfs", busybox_rootfs)
    assert "the name is taken" in cli(*again).error()
    assert state(cli) == "running"


def test_a_reboot_from_inside(cli: CommandLine, busybox_rootfs: Path) -> None:
    first = cli.run_to_reboot("web1", "--rootfs", busybox_rootfs)
    assert first["state"] == "running"
    shown = cli.reboot_inside("web1", first["init_pid"])
    assert shown["state"] == "unverified"
    assert cli.json("container", "start", "web1")["state"] == "running"
