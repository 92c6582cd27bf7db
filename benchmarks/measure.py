# SPDX-License-Identifier: Apache-2.0
"""Turns of what is compared, the time that each takes, and where."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
Times = dict[str, list[float]]
#: The longest that a single command may take, in seconds.
LONGEST = 600.0


def take_turns(
    takers: Mapping[str, Callable[[], T]],
    rounds: int,
    what: str,
    *,
    warm_up: bool = False,
) -> dict[str, list[T]]:
    """Let all take a turn, round by round; return the results of each.

    :param what: for a terminal.
    :param warm_up: whether there is a round before, which does not count:
        after it all modules are loaded, and what is read is in memory.
    """
    found: dict[str, list[T]] = {name: [] for name in takers}
    turns = [*takers] * (rounds + warm_up)
    for number, name in enumerate(
        tqdm(turns, what, leave=False, disable=None)
    ):
        # What one has left to write must not slow the next.
        os.sync()
        result = takers[name]()
        if number >= len(takers) * warm_up:
            found[name].append(result)
    return found


def clock(call: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def run(argv: Sequence[str]) -> str:
    """Run a command, and return what it prints; an error has what it says."""
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=LONGEST
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def describe(directory: Path) -> str:
    """Describe the machine, the filesystem of a directory, and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)", cpuinfo, re.MULTILINE)
    processor = model[1] if model else platform.machine()
    filesystem = run(["findmnt", "-no", "FSTYPE", "-T", str(directory)])
    nova = metadata.distributions(name="nova")
    programs = filter(shutil.which, ("chown", "tar", "libvirtd"))
    return ", ".join([
        f"Linux {platform.release()}",
        f"{len(os.sched_getaffinity(0))} CPUs ({processor})",
        f"{memory / (1 << 30):.0f} GiB, {filesystem.strip()}",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
        *(run([name, "--version"]).splitlines()[0] for name in programs),
        *(f"Nova {each.version}" for each in nova),
    ])  # fmt: skip
