# SPDX-License-Identifier: Apache-2.0
"""A Debian system: its archive, and a tree unpacked from it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.scratch import disk_bytes
from tests.functional import images

_INIT = "sysvinit"
#: GNU tar, to unpack all that a root filesystem has.
EXTRACT = (*images.TAR, "--extract", "--preserve-permissions")
CREATE = (*images.TAR, "--create", "--zstd")


@dataclass(frozen=True, slots=True)
class Image:
    """A Debian system with sysvinit.

    :param archive: compressed by zstd.
    :param tree: unpacked from it; its owners are guest IDs.
    """

    archive: Path
    tree: Path

    def describe(self) -> dict[str, int]:
        """How large it is."""
        return {
            "archive_bytes": self.archive.stat().st_size,
            "tree_bytes": disk_bytes(self.tree),
            "inodes": count_inodes(self.tree),
        }


def make(directory: Path) -> Image | None:
    """Find the archive, or make it, and unpack it.

    :returns: None if there is no way to a Debian mirror, after saying so.
    """
    try:
        archive = images.make_debian(_INIT)
    except pytest.skip.Exception as err:
        print(f"left out, what needs a Debian system: {err}")
        return None
    tree = directory / "debian"
    tree.mkdir(mode=0o755)
    argv = [*EXTRACT, "--file", str(archive), "-C", str(tree)]
    subprocess.run(argv, check=True)
    return Image(archive, tree)


def count_inodes(tree: Path) -> int:
    """Inodes of a tree, the root directory among them."""
    seen = {os.lstat(tree).st_ino}
    for _, directories, files, fd in os.fwalk(tree):
        seen.update(
            os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
            for name in directories + files
        )
    return len(seen)
