# SPDX-License-Identifier: Apache-2.0
"""What was measured on, and with which versions."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

_PROGRAMS = ("chown", "tar", "libvirtd")


def describe(directory: Path) -> dict[str, str]:
    """Describe the machine, and the filesystem of a directory."""
    return {
        "kernel": f"Linux {platform.release()}",
        "cpus": f"{len(os.sched_getaffinity(0))} CPUs ({_processor()})",
        "memory": f"{_memory() / (1 << 30):.0f} GiB",
        "filesystem": _read("findmnt", "-no", "FSTYPE", "-T", str(directory)),
        "python": f"Python {platform.python_version()}",
        "sqlite": f"SQLite {sqlite3.sqlite_version}",
        **dict(_versions()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PROGRAMS:
        if shutil.which(name):
            yield name, _read(name, "--version").partition("\n")[0]
    for found in metadata.distributions():
        if found.name == "nova":
            yield "nova", f"Nova {found.version}"


def _read(*argv: str) -> str:
    return subprocess.run(
        argv, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
