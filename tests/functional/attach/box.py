# SPDX-License-Identifier: Apache-2.0
"""A running container, and commands in it."""

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import pseudoterminals
from tests.functional import foreign, images
from tests.functional.command_line import BASE, PROGRAM, CommandLine, Result

NAME = "box"
KINDS = ("private", "host", "others private", "others host")
LONGEST = 60
MEMBERS = "staff:x:50:nobody,alice\n"


@dataclass(frozen=True)
class Box:
    """A running container.

    :param root: its root filesystem.
    :param init: its first process.
    """

    cli: CommandLine
    root: Path
    init: int
    base: int

    def exec(self, *arguments: str, **options: object) -> Result:
        """Run a command in it."""
        return self.cli("container", "exec", NAME, *arguments, **options)

    def out(self, *arguments: str, **options: object) -> str:
        """Return what a command prints, which goes well."""
        done = self.exec(*arguments, **options)
        assert (done.code, done.err) == (0, "")
        return done.out

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line, for a process of its own."""
        return [
            *map(str, (PROGRAM, "--config-file", self.cli.config)),
            *("container", "exec", NAME, *arguments),
        ]


@contextmanager
def running(
    kind: str,
    cli: CommandLine,
    connection: libvirt.virConnect,
    root: Path,
    *options: str,
) -> Iterator[Box]:
    with (root / "etc/group").open("a") as stream:
        stream.write(MEMBERS)
    base = 0 if kind.endswith("host") else BASE
    if kind.startswith("others"):
        root.parent.chmod(0o711)
        for path in (root, *root.rglob("*")) if base else ():
            os.chown(path, base, base, follow_symlinks=False)
        ids = foreign.idmap() if base else ""
        with foreign.running(connection, NAME, root, ids=ids) as made:
            yield Box(cli, root, made.init, base)
        return
    init = ("--rootfs", str(root), "--init", "/bin/sleep 1000")
    done = cli(
        *("container", "run", NAME, *init, "--mode", kind, *options),
        *("-f", "json"),
    )
    assert done.code == 0, done
    with Guests().init_process(NAME) as init_process:
        pid = int(init_process.pid)
    yield Box(cli, root, pid, base)


def prepare(path: Path) -> Path:
    store = path / "store"
    store.mkdir(mode=0o700)
    images.make_busybox(store / "root")
    return store / "root"


@contextmanager
def started(
    box: Box, *arguments: str, **options: object
) -> Iterator["subprocess.Popen[str]"]:
    process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
        # A shell may have started the tests with some ignored.
        ["env", "--default-signal", *box.argv(*arguments)],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        },
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


class Terminal:
    """The terminal of a user of the host."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        pseudoterminals.set_size(self.master, 33, 99)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str) -> "re.Match[str]":
        deadline = time.monotonic() + LONGEST
        while not (found := re.search(pattern, self.text)):
            rest = max(0, deadline - time.monotonic())
            assert select.select([self.master], [], [], rest)[0], self.text
            self.text += os.read(self.master, 4096).decode()
        self.text = self.text[found.end() :]
        return found

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON


@contextmanager
def on_terminal(
    box: Box, terminal: Terminal, *arguments: str
) -> Iterator["subprocess.Popen[str]"]:
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    with started(
        box, *arguments, **streams, start_new_session=True,
        env=os.environ | {"TERM": "vt220"},
    ) as process:  # fmt: skip
        yield process
