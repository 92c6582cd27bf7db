# SPDX-License-Identifier: Apache-2.0
"""Containers of others, which can have any name that libvirt takes."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import (
    PROGRAM,
    CommandLine,
    run_on_a_terminal,
)
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import pid_of, run
from tests.functional.foreign import XML, idmap, running

pytestmark = pytest.mark.needs("containers")

#: Names, and how each is shown. With a line break, or a slash, libvirt takes
#: none.
NAMES = {
    "two  blanks": "two  blanks",
    "--all": "--all",
    "-v": "-v",
    "größe-日本": "größe-日本",
    "$(reboot)": "$(reboot)",
    "..": "..",
    "a\tb": r"a\tb",
    # Of the terminal: CSI in one character, and a change of direction.
    "a\x9b31mb": r"a\x9b31mb",
    "a\u202eb": r"a\u202eb",
    "x" * 64: "x" * 64,
}
FOREIGN = (
    "libvirt has a domain of this name that others have made; start, stop "
    "and undefine it by what made it"
)


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    return command_line("")


@pytest.fixture
def names(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> Iterator[list[str]]:
    """Containers of others that run, by all of these names."""
    subprocess.run(["chmod", "-R", "a+rwX", shared_rootfs], check=True)
    with ExitStack() as stack:
        for name in NAMES:
            found = running(
                libvirt_connection, name, shared_rootfs, ids=idmap()
            )
            stack.enter_context(found)
        yield [*NAMES]


def on_a_terminal(cli: CommandLine, *arguments: str) -> str:
    """Return what the program prints to a terminal."""
    argv = [str(PROGRAM), "--config-file", str(cli.config), *arguments]
    env = {**os.environ, "NO_COLOR": "1"}
    _, said = run_on_a_terminal(argv, "stdout", env=env)
    return said.decode().replace("\r\n", "\n")


def is_plain(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def test_all_of_them(cli: CommandLine, names: list[str]) -> None:
    """No terminal acts upon what they are called; programs get it as it is."""
    listed = cli.json("container", "list")
    assert {each["name"] for each in listed} == {*names}
    done = cli("container", "list", "-f", "value", "-c", "name")
    assert {*done.out.splitlines()} == {*names}
    assert {
        *on_a_terminal(
            cli, "container", "list", "-f", "value", "-c", "name"
        ).splitlines()
    } == {*NAMES.values()}
    for shown in (
        cli("container", "list").out,
        on_a_terminal(cli, "container", "list"),
        cli("domain", "audit", "--all").out,
        cli("host", "check").out,
    ):
        assert is_plain(shown)
    audited = cli("domain", "audit", "--all", "-f", "json")
    assert {each["name"] for each in json.loads(audited.out)} == {*names}
    assert audited.err == ""


def test_in_a_report_of_the_host(
    cli: CommandLine, libvirt_connection: libvirt.virConnect
) -> None:
    bridge = "<interface type='bridge'><source bridge='absent'/></interface>"
    xml = XML.format(
        name="a\x9b31mb", script="true", idmap="", features="",
        rootfs="/srv", devices=bridge, last="",
    )  # fmt: skip
    domain = libvirt_connection.defineXML(xml)
    try:
        shown = on_a_terminal(cli, "host", "check")
    finally:
        domain.undefine()
    assert is_plain(shown)
    assert "no bridge absent, which a\\x9b31mb" in " ".join(shown.split())


def test_each_of_them(cli: CommandLine, names: list[str]) -> None:
    """It is a name, wherever it is one, and no option."""
    for name, shown in NAMES.items():
        found = cli("container", "show", "-f", "json", "--", name).json()
        assert (found["name"], found["state"]) == (name, "running")
        done = cli("container", "show", "--", name)
        assert is_plain(done.out), name
        assert shown in done.out
        done = cli("container", "logs", "--", name)
        assert f"--name {name} --console" in done.out
        verify = ("container", "verify", "-f", "json", "--report-only")
        assert cli(*verify, "--", name).json()["name"] == name
        done = cli("container", "exec", "--", name, "echo", "--all")
        assert (done.out, done.err) == ("--all\n", "")
        once = " ".join(shown.replace(r"\t", " ").split())
        for verb in ("stop", "start", "destroy"):
            told = cli("container", verb, "--", name).error()
            assert told == f"{once}: {FOREIGN}"
        told = cli("domain", "convert", "--in-place", "--", name).error()
        assert told == f"{once}: is running; stop it first"


def test_a_name_after_hyphens_is_no_option(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """Nothing is done with all that is to be done with one."""
    busybox_rootfs.parent.chmod(0o700)
    run(cli, "web", busybox_rootfs)
    pid = pid_of(cli, "web")
    for verb in ("stop", "restart", "destroy"):
        told = cli("container", verb, "--", "--all").error()
        assert "not a name" in told
        done = cli("container", verb, "absent", "--", "--all")
        assert (done.code, len(done.err.splitlines())) == (1, 2)
    assert pid_of(cli, "web") == pid
    assert cli("container", "stop", "--timeout", "0", "--", "web").code == 0
