# SPDX-License-Identifier: Apache-2.0
"""``container logs``: what a container printed, and what libvirt says."""

import re
import subprocess
from pathlib import Path

import libvirt
import pytest

from tests.functional import foreign
from tests.functional.command_line import (
    PROGRAM,
    CommandLine,
    run_on_a_terminal,
)
from tests.functional.containers import cli as cli
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")


def run(cli: CommandLine, rootfs: Path, script: str) -> None:
    (rootfs / "script").write_text(f"PATH=/bin:/sbin\n{script}\n")
    cli.json(
        *("container", "run", "web1", "--rootfs", rootfs),
        *("--init", "/bin/sh /script"),
    )


def logs(cli: CommandLine, *arguments: str) -> list[str]:
    done = cli("container", "logs", "web1", *arguments)
    assert (done.code, done.err) == (0, ""), done
    return done.out.splitlines()


def command(cli: CommandLine) -> list[str | Path]:
    options = ("--config-file", cli.config)
    return [PROGRAM, *options, "container", "logs", "web1"]


def console(lines: list[str]) -> list[str]:
    return [
        line.removeprefix("console: ")
        for line in lines
        if line.startswith("console: ")
    ]


def test_logs_of_the_last_run(cli: CommandLine, busybox_rootfs: Path) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; done; exec sleep 1000"
    run(cli, busybox_rootfs, script)
    wait_for(lambda: console(logs(cli))[-1:] == ["line 5"])
    shown = logs(cli)
    assert console(shown) == [f"line {number}" for number in range(1, 6)]
    assert shown[0].startswith("libvirt: ")
    assert shown[0].endswith(": starting up")
    assert any("libvirt_lxc --name web1" in line for line in shown)
    # Of each the last ones.
    shown = logs(cli, "--lines", "2")
    assert console(shown) == ["line 4", "line 5"]
    assert len(shown) == 4
    assert logs(cli, "--lines", "0") == []
    # Of a stopped one there is nothing to wait for; the next run begins anew.
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    assert console(logs(cli, "--follow"))[-1] == "line 5"
    (busybox_rootfs / "script").write_text("echo again; exec sleep 1000\n")
    cli.json("container", "start", "web1")
    wait_for(lambda: console(logs(cli)) == ["again"])
    starts = [each for each in logs(cli) if each.endswith(": starting up")]
    assert len(starts) == 1


def test_following_until_it_ends(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    script = (
        "echo up; while ! [ -e /go ]; do sleep 0.1; done; echo down; "
        "printf 'no newline'"
    )
    run(cli, busybox_rootfs, script)
    argv = command(cli)
    with subprocess.Popen(
        [*argv, "--follow"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "console: up\n":
                break
        (busybox_rootfs / "go").touch()
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert console(rest.splitlines()) == ["down", "no newline"]


def test_what_a_hostile_container_prints(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """A terminal is given none of its control characters, a file all."""
    script = (
        r"printf '\033]0;evil\007\302\233\nlibvirt: forged\n\377\n'; "
        "exec sleep 1000"
    )
    run(cli, busybox_rootfs, script)
    wait_for(lambda: len(console(logs(cli))) >= 3)
    argv = command(cli)
    piped = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    assert b"console: \x1b]0;evil\x07\xc2\x9b\n" in piped
    assert b"console: \xff\n" in piped
    code, shown = run_on_a_terminal(argv, "stdout")
    assert code == 0
    text = shown.replace(b"\r\n", b"\n")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f\x80-\xff]", text)
    assert rb"console: \x1b]0;evil\x07\x9b" in text
    # It cannot pass for libvirt.
    assert b"console: libvirt: forged\n" in text


def test_logs_of_a_container_of_others(
    cli: CommandLine,
    shared_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    with foreign.running(libvirt_connection, "theirs", shared_rootfs):
        done = cli("container", "logs", "theirs")
        assert done.code == 0
        assert done.out.startswith("libvirt: ")
        assert "console: " not in done.out


def test_bad_input(cli: CommandLine) -> None:
    error = cli("container", "logs", "absent").error(5)
    assert error.startswith("absent: ")
    assert "expected a number of lines" in cli(
        "container", "logs", "absent", "--lines", "-1"
    ).error(2)


def test_odd_ways_to_call_it(cli: CommandLine, busybox_rootfs: Path) -> None:
    run(cli, busybox_rootfs, "echo up; exec sleep 1000")
    wait_for(lambda: console(logs(cli)) == ["up"])
    assert console(logs(cli, "--lines", "9" * 30)) == ["up"]
    argv = ["sh", "-c", 'exec "$@" >&-', "sh", *command(cli)]
    done = subprocess.run(argv, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
