# SPDX-License-Identifier: Apache-2.0
"""What was measured on, and with which versions."""

import os
import platform
import re
import shutil
import sqlite3
from importlib import metadata
from pathlib import Path

from benchmarks.measure import run


def describe(directory: Path) -> str:
    """Describe the machine, and the filesystem of a directory."""
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
