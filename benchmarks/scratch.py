# SPDX-License-Identifier: Apache-2.0
"""A place for all that the benchmarks make, which goes whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Directories to work in.

    :param path: all may pass through it, as the users of containers do on the
        way to their views.
    """

    path: Path

    @property
    def closed(self) -> Path:
        """For trees: only root can reach it."""
        return self.path / "closed"

    def run_path(self, name: str) -> Path:
        """For views of one contender."""
        return self.path / f"run-{name}"

    def state_path(self, name: str) -> Path:
        """For what one contender keeps."""
        return self.closed / f"state-{name}"


@contextmanager
def made(parent: Path) -> Iterator[Scratch]:
    """Make a place in a directory, and remove it with all that is in it.

    Signals that end a program do so after that.
    """
    for number in _ENDING:
        signal.signal(number, _exit)
    path = Path(tempfile.mkdtemp(prefix="lxc-userns-bench-", dir=parent))
    scratch = Scratch(path.resolve())
    try:
        path.chmod(0o711)
        scratch.closed.mkdir(mode=0o700)
        yield scratch
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        unmount_below(scratch.path)
        remove(scratch.path)


def unmount_below(path: Path) -> None:
    """Unmount all that is mounted in a directory, the last first."""
    # Not by the package: it is what is being tried.
    argv = ["findmnt", "--list", "--json", "--output", "TARGET"]
    listed = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
    for mount in reversed(json.loads(listed)["filesystems"]):
        if Path(mount["target"]).is_relative_to(path):
            # Lazily: a process that was killed may take a moment to go.
            argv = ["umount", "--lazy", mount["target"]]
            subprocess.run(argv, check=True)


def remove(path: Path) -> None:
    """Remove a tree; nothing that is mounted in it is touched."""
    argv = ["rm", "-rf", "--one-file-system", str(path)]
    subprocess.run(argv, check=True)


def disk_bytes(*paths: Path) -> int:
    """Bytes that trees take on disk, each inode once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path in paths:
        inodes = [os.lstat(path)]
        for _, directories, files, fd in os.fwalk(path):
            inodes += [
                os.stat(name, dir_fd=fd, follow_symlinks=False)
                for name in directories + files
            ]
        for st in inodes:
            if (st.st_dev, st.st_ino) not in seen:
                seen.add((st.st_dev, st.st_ino))
                total += st.st_blocks * 512
    return total


def used_bytes(path: Path) -> int:
    """Bytes in use on the filesystem of a path, by whomever."""
    os.sync()
    st = os.statvfs(path)
    return (st.f_blocks - st.f_bfree) * st.f_frsize


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
