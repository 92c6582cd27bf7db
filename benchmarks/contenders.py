# SPDX-License-Identifier: Apache-2.0
"""Who takes part: what is run, and how its time is taken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.trees import ENTRY, Tree

LONGEST = 600.0
_HERE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to change the owners of a tree.

    :param name: its name in the table.
    :param argv: what to run; the tree's path comes where ``{}`` is.
    :param timed_inside: whether it takes its own time.
    :param needs: what has to be installed: a program, or a Python module if
        it is timed inside.
    """

    name: str
    argv: tuple[str, ...]
    timed_inside: bool
    needs: str

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        if self.timed_inside:
            return find_spec(self.needs) is not None
        return shutil.which(self.needs) is not None

    def run(self, tree: Tree) -> float:
        """Shift a tree that is as it was made.

        :returns: seconds.
        """
        argv = [str(tree.root) if word == "{}" else word for word in self.argv]
        if self.timed_inside:
            return float(run_child(*argv)["seconds"])
        start = time.perf_counter()
        _run(argv)
        return time.perf_counter() - start


def run_child(name: str, path: str) -> dict[str, Any]:
    """Run :mod:`benchmarks.child`; what it printed."""
    # Nova's libraries warn of each other.
    argv = [sys.executable, "-W", "ignore", "-m", "benchmarks.child"]
    argv += [name, path]
    result: dict[str, Any] = json.loads(_run(argv))
    return result


def _run(argv: list[str]) -> str:
    return subprocess.run(
        argv,
        cwd=_HERE,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LONGEST,
    ).stdout


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
    Contender("lxc_userns.rootfs.shift", ("shift", "{}"), True, "lxc_userns"),
    Contender("plain walk in Python", ("walk", "{}"), True, "os"),
    Contender(
        "fuidshift (LXD)",
        ("fuidshift", "{}", f"b:{_GUEST}:{_HOST}:{_COUNT}"),
        timed_inside=False,
        needs="fuidshift",
    ),
    Contender("Nova's idmapshift", ("nova", "{}"), True, "nova"),
)


def check_shifted(tree: Tree) -> None:
    """Make sure that a contender has done its work.

    :raises RuntimeError: if an inode has its guest ID still.
    """
    for inode in tree.contents():
        st = os.lstat(tree.root / inode.path)
        # Not more: one gives all the same owner, one shifts hard links twice.
        if st.st_uid < _HOST and not inode.links:
            raise RuntimeError(f"{tree.root / inode.path} is not shifted")
