# SPDX-License-Identifier: Apache-2.0
"""Containers that are waited for, and those that systemd starts again."""

import glob
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine, Result
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

#: The kernel tells a power-off from a kill for a moment, which can be missed.
POWERED_OFF = ((0, "powered off"), (137, "signal SIGKILL"))
#: Waits for a file, and goes on as that says.
SCRIPT = "PATH=/bin:/sbin; until [ -e /go ]; do sleep 0.05; done; . /go"


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("")


class Waiting:
    """``container wait`` of a container that runs."""

    def __init__(self, cli: CommandLine) -> None:
        self._results: list[Result] = []
        self._thread = threading.Thread(
            target=lambda: self._results.append(
                cli("container", "wait", "web1", "-f", "json")
            )
        )
        self._thread.start()

    def follows(self, pid: int) -> bool:
        """Return whether it holds a process.

        What keeps the container's traces does so, too.
        """
        if not self._thread.is_alive():
            return True
        # pathlib's raises for a process that ends meanwhile.
        for file in map(Path, glob.iglob("/proc/[0-9]*/fdinfo/*")):
            with suppress(OSError):
                if f"\nPid:\t{pid}\n" in file.read_text():
                    program = file.parents[1] / "cmdline"
                    if b"watcher" not in program.read_bytes():
                        return True
        return False

    def end(self) -> tuple[int, str]:
        """Return the exit code, and how the container has ended."""
        self._thread.join()
        (done,) = self._results
        return done.code, done.err or json.loads(done.out)["ended"]


def go_on(rootfs: Path, script: str) -> None:
    """Let the container go on with a script."""
    (rootfs / "new").write_text(script)
    (rootfs / "new").rename(rootfs / "go")


@pytest.fixture
def rootfs(cli: CommandLine, busybox_rootfs: Path) -> Path:
    """Root filesystem of a container that runs."""
    (busybox_rootfs / "script").write_text(SCRIPT)
    cli.json(
        "container", "run", "web1", "--rootfs", busybox_rootfs,
        "--init", "/bin/sh /script",
    )  # fmt: skip
    return busybox_rootfs


@pytest.mark.parametrize(
    ("script", "code", "ended"),
    [
        ("exit 0", 0, "exit code 0"),
        ("exit 7", 7, "exit code 7"),
    ],
)
def test_one_that_ends_by_itself(
    script: str, code: int, ended: str, cli: CommandLine, rootfs: Path
) -> None:
    waiting = Waiting(cli)
    go_on(rootfs, script)
    assert waiting.end() == (code, ended)
    # Who comes late is told the same.
    assert Waiting(cli).end() == (code, ended)


def stop(cli: CommandLine, _domain: libvirt.virDomain) -> None:
    assert cli("container", "stop", "web1").code == 0


def destroy(cli: CommandLine, _domain: libvirt.virDomain) -> None:
    assert cli("container", "destroy", "web1").code == 0


def destroy_by_libvirt(_cli: CommandLine, domain: libvirt.virDomain) -> None:
    domain.destroy()


@pytest.mark.parametrize("act", [stop, destroy, destroy_by_libvirt])
def test_one_that_somebody_stops(
    act: Callable[[CommandLine, libvirt.virDomain], None],
    cli: CommandLine,
    rootfs: Path,
) -> None:
    waiting = Waiting(cli)
    with libvirt.open("lxc:///") as connection:
        act(cli, connection.lookupByName("web1"))
    assert waiting.end() == (143, "stopped")


def test_a_stop_for_a_unit(cli: CommandLine, rootfs: Path) -> None:
    """There is no one that waits any more: it may be starting again."""
    stop = "container", "stop", "--ignore", "web1", "--waited-by"
    assert cli(*stop, "").code == 0
    assert cli.json("container", "show", "web1")["state"] == "running"
    assert cli(*stop, "1").code == 0
    assert cli.json("container", "show", "web1")["state"] == "stopped"


def test_one_that_was_stopped_before(cli: CommandLine, rootfs: Path) -> None:
    assert cli("container", "stop", "web1").code == 0
    assert Waiting(cli).end() == (143, "stopped")
    # That does not hold for its next run.
    cli.json("container", "start", "web1")
    waiting = Waiting(cli)
    go_on(rootfs, "exit 7")
    assert waiting.end() == (7, "exit code 7")


def test_one_that_is_destroyed_and_ends_in_order(
    cli: CommandLine, rootfs: Path
) -> None:
    """Its first process ends by itself, for it was asked to."""
    waiting = Waiting(cli)
    script = "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done"
    go_on(rootfs, script)
    wait_for((rootfs / "ready").exists)
    assert cli("container", "destroy", "web1").code == 0
    assert waiting.end() == (143, "stopped")


def test_one_that_is_undefined(cli: CommandLine, rootfs: Path) -> None:
    """It runs on, and no one stops it."""
    waiting = Waiting(cli)
    with libvirt.open("lxc:///") as connection:
        connection.lookupByName("web1").undefine()
    go_on(rootfs, "exit 7")
    assert waiting.end() == (7, "exit code 7")
    assert Waiting(cli).end() == (7, "exit code 7")


def test_one_that_libvirt_has_started_and_is_undefined(
    cli: CommandLine, rootfs: Path
) -> None:
    """No one but who waits sees how it ends."""
    assert cli("container", "stop", "web1").code == 0
    assert cli("host", "hook", "install").code == 0
    try:
        with libvirt.open("lxc:///") as connection:
            domain = connection.lookupByName("web1")
            domain.create()
            pid = cli.json("container", "show", "web1")["init_pid"]
            waiting = Waiting(cli)
            wait_for(lambda: waiting.follows(pid))
            domain.undefine()
        go_on(rootfs, "exit 7")
        assert waiting.end() == (7, "exit code 7")
    finally:
        cli("host", "hook", "remove")


def test_one_that_had_ended_when_it_was_stopped(
    cli: CommandLine, rootfs: Path
) -> None:
    """Nothing happened to it."""
    waiting = Waiting(cli)
    go_on(rootfs, "exit 7")
    assert waiting.end() == (7, "exit code 7")
    assert cli("container", "stop", "web1").code == 0
    assert Waiting(cli).end() == (7, "exit code 7")


@pytest.mark.parametrize("is_watched", [False, True])
def test_one_that_libvirt_has_started_since(
    is_watched: bool, cli: CommandLine, rootfs: Path
) -> None:
    """Notes of a run before are nothing of the last."""
    stop = "container", "stop", "web1", "--timeout"
    # What is killed may be about to reboot, and is still watched for a while.
    if is_watched:
        assert cli(*stop, "0").code == 0
    else:
        go_on(rootfs, "echo earlier; exit 5")
        assert Waiting(cli).end()[0] == 5
        assert cli(*stop, "0").code == 0
        (rootfs / "go").unlink()
    assert cli("host", "hook", "install").code == 0
    try:
        with libvirt.open("lxc:///") as connection:
            domain = connection.lookupByName("web1")
            domain.create()
            assert "earlier" not in cli("container", "logs", "web1").out
            go_on(rootfs, "exit 7")
            show = "container", "show", "web1"
            wait_for(lambda: cli.json(*show)["state"] == "stopped")
        code, said = Waiting(cli).end()
        # On a slow machine it may not be watched any more.
        if not is_watched or code != 7:
            assert code == 125
            assert said == "error: web1: is not running\n"
            assert cli.json(*show)["ended"] is None
    finally:
        cli("host", "hook", "remove")


def test_one_that_is_killed(cli: CommandLine, rootfs: Path) -> None:
    """By whom is not known: as by the kernel, for want of memory."""
    waiting = Waiting(cli)
    pid = cli.json("container", "show", "web1")["init_pid"]
    os.kill(pid, signal.SIGKILL)
    assert waiting.end() == (137, "signal SIGKILL")


def test_one_that_reboots(
    command_line: Callable[[str], CommandLine], busybox_rootfs: Path
) -> None:
    cli = command_line("")
    first = cli.run_to_reboot("web1", "--rootfs", busybox_rootfs)
    waiting = Waiting(cli)
    again = cli.reboot_inside("web1", first["init_pid"])
    assert cli("container", "wait", "none").code == 125
    os.kill(again["init_pid"], signal.SIGUSR2)
    assert waiting.end() in POWERED_OFF


def test_who_cannot_be_waited_for(cli: CommandLine) -> None:
    error = cli("container", "wait", "none").error(125)
    assert error == "none: no such container"
    with libvirt.open("lxc:///") as connection:
        domain = connection.defineXML(
            "<domain type='lxc'><name>theirs</name><memory>65536</memory>"
            "<os><type>exe</type><init>/bin/sh</init></os></domain>"
        )
        try:
            error = cli("container", "wait", "theirs").error(125)
        finally:
            domain.undefine()
    assert error == "theirs: is not running"


@pytest.mark.skipif(
    os.path.isdir("/run/systemd/system"), reason="systemd is here"
)
@pytest.mark.parametrize("policy", ["on-failure", "always"])
def test_a_policy_without_systemd(
    policy: str, cli: CommandLine, busybox_rootfs: Path
) -> None:
    run = "container", "run", "web1", "--rootfs", busybox_rootfs
    for option in ((), ("--dry-run",)):
        error = cli(*run, "--restart", policy, *option).error()
        assert error.startswith(f"--restart = {policy}: needs systemd")
    assert cli.json("container", "list") == []
    assert cli.json(*run, "--restart", "no")["restart"] == "no"
