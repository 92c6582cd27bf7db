# SPDX-License-Identifier: Apache-2.0
"""Containers that systemd starts again.

Not among the tests of ``make test``: systemd has to be the first process, and
libvirtd that of the whole machine, as in the virtual machine.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.functional.capabilities import TOOLS
from tests.functional.command_line import PROGRAM, CommandLine
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

NAME, SYSTEM = "web1", Path("/run/systemd/system")
SCRIPT = (
    "PATH=/bin:/sbin; until [ -e /go ]; do sleep 0.1; done; "
    "mv /go /gone; . /gone"
)


def systemctl(*arguments: str) -> str:
    """Call systemctl, and return what it prints."""
    done = subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, timeout=600
    )
    return done.stdout.strip()


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> Iterator[CommandLine]:
    """The program, and units that call it."""
    cli = command_line("")
    made = []
    for unit in (TOOLS.parent / "etc/systemd").glob("*@.service"):
        text = unit.read_text()
        program = f"{PROGRAM} --config-file {cli.config}"
        assert text.count("/usr/bin/lxc-userns") == 3
        made.append(SYSTEM / unit.name)
        made[-1].write_text(text.replace("/usr/bin/lxc-userns", program))
    systemctl("daemon-reload")
    try:
        yield cli
    finally:
        for unit in made:
            name = unit.name.replace("@", f"@{NAME}")
            systemctl("disable", "--now", name)
            unit.unlink()
        systemctl("daemon-reload")


class Restarted:
    """A container with a restart policy."""

    def __init__(self, cli: CommandLine, rootfs: Path, policy: str) -> None:
        self._cli, self._rootfs = cli, rootfs
        self.unit = f"lxc-userns-{policy}@{NAME}.service"
        (rootfs / "script").write_text(SCRIPT)
        run = "container", "run", NAME, "--rootfs", rootfs
        init = "--init", "/bin/sh /script"
        shown = cli.json(*run, *init, "--restart", policy)
        assert shown["restart"] == policy
        self.init_pid = shown["init_pid"]

    def go_on(self, script: str) -> None:
        """Let it go on with a script."""
        (self._rootfs / "new").write_text(f"{script}\n")
        (self._rootfs / "new").rename(self._rootfs / "go")

    def show(self) -> Any:
        return self._cli.json("container", "show", NAME)

    def wait_for_state(self, *states: str) -> None:
        """Wait until its unit is in one of these states."""
        show = "show", "--property=ActiveState", "--value", self.unit
        wait_for(lambda: systemctl(*show) in states)

    def wait_for_another(self) -> None:
        """Wait until another process is its first one, and followed."""

        def look() -> Any:
            shown = self.show()
            is_other = shown["init_pid"] not in (None, self.init_pid)
            return shown if is_other and shown["state"] == "running" else None

        self.init_pid = wait_for(look)["init_pid"]
        self.wait_for_state("active")


def test_one_that_fails(cli: CommandLine, busybox_rootfs: Path) -> None:
    web1 = Restarted(cli, busybox_rootfs, "on-failure")
    web1.wait_for_state("active")
    web1.go_on("exit 7")
    web1.wait_for_another()
    os.kill(web1.init_pid, signal.SIGKILL)
    web1.wait_for_another()
    web1.go_on("exit 0")
    web1.wait_for_state("inactive")
    assert web1.show()["state"] == "stopped"
    assert web1.show()["ended"] == "exit code 0"


def test_one_that_somebody_stops(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    web1 = Restarted(cli, busybox_rootfs, "always")
    web1.wait_for_state("active")
    web1.go_on("exit 0")
    web1.wait_for_another()
    assert cli("container", "stop", NAME).code == 0
    web1.wait_for_state("inactive")
    assert web1.show()["state"] == "stopped"
    # It is followed again once it is started, and restarted.
    cli.json("container", "start", NAME)
    web1.wait_for_another()
    cli.json("container", "restart", NAME)
    web1.wait_for_another()
    assert systemctl("is-failed", web1.unit) == "active"
    systemctl("stop", web1.unit)
    assert web1.show()["state"] == "stopped"
    systemctl("start", web1.unit)
    web1.wait_for_another()
    assert cli("container", "destroy", NAME).code == 0
    web1.wait_for_state("inactive")
    assert systemctl("is-enabled", web1.unit) == "disabled"


def test_who_follows_it_is_killed(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """The container runs on, and is followed again."""
    web1 = Restarted(cli, busybox_rootfs, "on-failure")
    web1.wait_for_state("active")
    show = "show", "--property=MainPID", "--value", web1.unit
    before = wait_for(lambda: int(systemctl(*show)))
    with suppress(ProcessLookupError):
        os.kill(before, signal.SIGKILL)
    wait_for(lambda: int(systemctl(*show)) not in (0, before))
    web1.wait_for_state("active")
    assert web1.show()["init_pid"] == web1.init_pid


def test_a_policy_whose_unit_is_not_there(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    (SYSTEM / "lxc-userns-always@.service").rename(SYSTEM / "gone")
    systemctl("daemon-reload")
    try:
        run = "container", "run", NAME, "--rootfs", busybox_rootfs
        error = cli(*run, "--restart", "always").error()
    finally:
        (SYSTEM / "gone").rename(SYSTEM / "lxc-userns-always@.service")
    assert "needs a unit that systemd does not know" in error
    assert cli.json("container", "list") == []
