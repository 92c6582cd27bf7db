# SPDX-License-Identifier: Apache-2.0
"""A place for all that the benchmarks make, which goes whatever happens."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import run
from lxc_userns.idmap import IdMap, IdMaps
from tests.functional.command_line import (
    BASE,
    COUNT,
    ID_MAP,
    PROGRAM,
    CommandLine,
)

#: What all is shifted for, as the configurations have it.
ENTRY = 0, BASE, COUNT
ID_MAPS = IdMaps(IdMap.parse(ID_MAP), IdMap.parse(ID_MAP))


class Scratch:
    """A directory to work in, through which the users of containers pass."""

    def __init__(self, parent: Path) -> None:
        made = tempfile.mkdtemp(prefix="lxc-userns-bench-", dir=parent)
        self.path = Path(made).resolve()
        self.path.chmod(0o711)
        #: For trees: only root can reach it.
        self.closed = self.path / "closed"
        self.closed.mkdir(mode=0o700)

    def view(self, name: str) -> Path:
        """Make a directory for a view of one contender."""
        path = self.path / name.replace(" ", "-")
        path.mkdir()
        return path

    def configure(self, name: str) -> CommandLine:
        """Make a configuration, and what it leads to."""
        directory = self.closed / f"configured-{name}"
        directory.mkdir()
        return CommandLine.make(directory, self.path / name)


def argv(cli: CommandLine, *arguments: str) -> list[str]:
    """Return the command line of our program, to be timed."""
    return [str(PROGRAM), "--config-file", str(cli.config), *arguments]


@contextmanager
def made(parent: Path) -> Iterator[Scratch]:
    """Make a place in a directory, and remove it with all that is in it.

    Signals that end a program do so after that.
    """
    ending = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    for number in ending:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    scratch = Scratch(parent)
    try:
        yield scratch
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_IGN)
        # Not by the package, which is what is being tried; the last first.
        targets = run(["findmnt", "--noheadings", "--list", "-o", "TARGET"])
        for target in reversed(targets.splitlines()):
            if Path(target).is_relative_to(scratch.path):
                # Lazily: a process that was killed may take a moment to go.
                subprocess.run(["umount", "--lazy", target], check=True)
        remove(scratch.path)


def remove(path: Path) -> None:
    """Remove a tree; nothing that is mounted in it is touched."""
    run(["rm", "-rf", "--one-file-system", str(path)])


def disk_bytes(*paths: Path) -> int:
    """Return the bytes that trees take on disk, each inode once."""
    argv = ["du", "--block-size=1", "--summarize", "--total"]
    return int(run([*argv, *map(str, paths)]).splitlines()[-1].split()[0])
