# SPDX-License-Identifier: Apache-2.0
"""All that a container goes through, in either mode."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns.domain.seclabel import parse_models
from lxc_userns.linux.process import Process
from tests.functional.command_line import BASE, COUNT, CommandLine

pytestmark = pytest.mark.needs("containers")

WHOLE = (1 << 32) - 1
#: Waits for the word to ask for a reboot, each time that it is started.
INIT = (
    "PATH=/bin:/sbin;"
    "while [ ! -e /go ]; do usleep 50000; done; rm -f /go; reboot -f"
)


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("userns_policy = preferred\n")


def has_rebooted(cli: CommandLine, before: int) -> bool:
    """Wait until it has another first process; False if it has ended."""
    deadline = time.monotonic() + 300
    while True:
        done = cli("container", "show", "web1", "-f", "json")
        # In between it may have no first process.
        shown = json.loads(done.out) if done.code == 0 else {}
        if shown.get("init_pid", before) not in (None, before):
            return True
        if shown.get("ended") is not None:
            return False
        assert time.monotonic() < deadline, done
        time.sleep(0.1)


def checked(
    cli: CommandLine, connection: libvirt.virConnect, mode: str
) -> int:
    """Look at the running container, and return its first process."""
    verified = cli.json("container", "verify", "web1")
    assert verified["mode"] == mode
    pid = int(verified["init_pid"])
    base, count = (BASE, COUNT) if mode == "private" else (0, WHOLE)
    for kind in ("uid", "gid"):
        found = Path(f"/proc/{pid}/{kind}_map").read_text().split()
        assert [*map(int, found)] == [0, base, count]
    assert Path(f"/proc/{pid}").stat().st_uid == base
    if parse_models(connection.getCapabilities()):
        uuid = connection.lookupByName("web1").UUIDString()
        with Process(pid) as init:
            assert uuid in init.security_label
    return pid


def findings(cli: CommandLine) -> Any:
    done = cli("domain", "audit", "web1", "-f", "json")
    return {each["code"] for each in json.loads(done.out)}


@pytest.mark.parametrize("mode", ["private", "host"])
def test_from_run_to_destroy(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    mode: str,
) -> None:
    (busybox_rootfs / "script").write_text(INIT)
    wishes = ("--mode", mode, "--init", "/bin/sh /script")

    def call(*arguments: str | Path) -> None:
        done = cli("container", *arguments)
        assert done.code == 0, done
        # Mode host is told of at each start.
        assert ("warning" in done.err) == (
            mode == "host" and arguments[0] in ("run", "start")
        )

    call("run", "web1", "--rootfs", busybox_rootfs, *wishes)
    first = checked(cli, libvirt_connection, mode)
    assert ("no-idmap" in findings(cli)) == (mode == "host")
    # libvirt may not be there to start it again, as run_to_reboot() has it.
    for _ in range(5):
        call("stop", "web1", "--timeout", "0")
        assert cli.json("container", "show", "web1")["state"] == "stopped"
        assert not os.path.exists(f"/proc/{first}")
        call("start", "web1")
        second = checked(cli, libvirt_connection, mode)
        (busybox_rootfs / "go").touch()
        if has_rebooted(cli, second):
            break
    assert checked(cli, libvirt_connection, mode) != second
    call("destroy", "web1")
    assert cli.json("container", "list") == []
    assert cli.mounts() == []


def test_what_runs_in_mode_host_can_be_prepared_again(
    cli: CommandLine, busybox_rootfs: Path, reachable_path: Path
) -> None:
    """A volume that is not idmapped may be reached by users of the host."""
    options = ("--mode", "host", "--init", "/bin/sleep 1000")
    (reachable_path / "volume").mkdir()
    volume = ("--volume", f"{reachable_path}/volume:/srv")
    root = ("--rootfs", busybox_rootfs)
    run = cli("container", "run", "web1", *root, *options, *volume)
    assert run.code == 0, run
    assert cli.manager().prepare("web1").mode == "host"
