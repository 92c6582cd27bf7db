# SPDX-License-Identifier: Apache-2.0
"""Who takes part: what is run, and how its time is taken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

from benchmarks.measure import clock_command
from benchmarks.scratch import Scratch
from benchmarks.trees import ENTRY, Tree
from tests.functional.capabilities import in_private_libvirtd

LIBVIRTD = "a private libvirtd"


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to make a root filesystem ready.

    :param name: its name in the table.
    :param argv: what to run; the tree's path comes where ``{}`` is. A name
        of :data:`benchmarks.child.WORKS` if it is timed inside.
    :param timed_inside: whether it takes its own time.
    :param needs: what has to be there: a program, a Python module if it is
        timed inside, or :data:`LIBVIRTD`.
    :param is_view: whether it leaves the owners on disk alone.
    """

    name: str
    argv: tuple[str, ...]
    timed_inside: bool
    needs: str
    is_view: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it can take part."""
        if self.needs == LIBVIRTD:
            return in_private_libvirtd()
        if self.timed_inside:
            return find_spec(self.needs) is not None
        return shutil.which(self.needs) is not None

    def started(self, scratch: Scratch) -> AbstractContextManager[Runner]:
        """Make it ready to take turns."""
        if self.timed_inside:
            return _serving(self.argv[0], scratch)
        return _runs(self.argv)


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a turn.

    :param seconds: how long it took.
    :param shown: where the new owners can be seen.
    """

    seconds: float
    shown: Path


class Runner(Protocol):
    """Takes turns."""

    def turn(self, tree: Tree) -> AbstractContextManager[Turn]:
        """Make a tree ready that is as it was made.

        Afterwards all is undone, but for owners on disk.
        """


class Program:
    """Runs a program, from its start to its end.

    :param argv: of :class:`Contender`.
    """

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._argv = argv

    @contextmanager
    def turn(self, tree: Tree) -> Iterator[Turn]:
        """Run it."""
        path = str(tree.root)
        argv = [path if word == "{}" else word for word in self._argv]
        yield Turn(clock_command(argv), tree.root)


class Service:
    """Asks a process of :mod:`benchmarks.child`.

    :param process: that process.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @contextmanager
    def turn(self, tree: Tree) -> Iterator[Turn]:
        """Ask it to do its work, and then to undo it."""
        found = self._ask(str(tree.root))
        yield Turn(found["seconds"], Path(found["shown"]))
        self._ask("")

    def _ask(self, text: str) -> dict[str, Any]:
        output = _pipe(self._process.stdin)
        output.write(f"{text}\n")
        output.flush()
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def _runs(argv: tuple[str, ...]) -> Iterator[Runner]:
    yield Program(argv)


@contextmanager
def _serving(name: str, scratch: Scratch) -> Iterator[Runner]:
    with subprocess.Popen(
        child("serve", name, str(scratch.path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Service(process)
        except BaseException:
            process.kill()
            raise
        # It ends when its input does.


def child(*arguments: str) -> list[str]:
    """The command line of :mod:`benchmarks.child`."""
    # Nova's libraries warn of each other.
    python = (sys.executable, "-W", "ignore")
    return [*python, "-m", "benchmarks.child", *arguments]


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("a process without pipes")
    return pipe


_GUEST, _HOST, _COUNT = ENTRY

#: What all others are compared with. It knows one owner only, and loses
#: set-ID bits and file capabilities.
CHOWN = Contender(
    "chown -hR",
    ("chown", "-hR", f"{_HOST}:{_HOST}", "{}"),
    timed_inside=False,
    needs="chown",
)
CONTENDERS = (
    CHOWN,
    Contender("rootfs.shift", ("shift",), True, "lxc_userns"),
    Contender("plain walk in Python", ("walk",), True, "os"),
    Contender(
        "fuidshift (LXD)",
        ("fuidshift", "{}", f"b:{_GUEST}:{_HOST}:{_COUNT}"),
        timed_inside=False,
        needs="fuidshift",
    ),
    Contender("Nova's idmapshift", ("nova",), True, "nova"),
    Contender(
        "rootfs.mount_idmapped", ("idmapped",), True, "lxc_userns", True
    ),
    Contender("rootfs.mount_overlay", ("overlay",), True, "lxc_userns", True),
    Contender("idmapped by hand", ("by-hand",), True, "ctypes", True),
    Contender("prepare, chown", ("prepare-chown",), True, LIBVIRTD),
    Contender(
        "prepare, idmapped", ("prepare-idmapped",), True, LIBVIRTD, True
    ),
    Contender("prepare, overlay", ("prepare-overlay",), True, LIBVIRTD, True),
)


def check_shifted(tree: Tree, shown: Path) -> None:
    """Make sure that a contender has done its work.

    :param shown: where the owners can be seen.
    :raises RuntimeError: if an inode has its guest ID still.
    """
    for inode in tree.contents():
        st = os.lstat(shown / inode.path)
        # Not more: one gives all the same owner, one shifts hard links twice.
        if st.st_uid < _HOST and not inode.links:
            raise RuntimeError(f"{shown / inode.path} is not shifted")
