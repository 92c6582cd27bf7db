# SPDX-License-Identifier: Apache-2.0
"""Removal of whole trees that somebody else has filled."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress


def remove_tree(parent: int, name: str) -> None:
    """Remove ``parent/name`` and all in it; nothing happens if it is missing.

    What is mounted below is left alone, and an error. rm does it: it follows
    no link, knows no limit of depth, and a container can make trees deeper
    than Python can recurse.

    :param parent: descriptor of a directory of ours.
    :param name: name in it, with no slash.
    :raises OSError: if not all of it could be removed.
    """
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        done = subprocess.run(
            ["rm", "--recursive", "--force", "--one-file-system", "--", name],
            cwd=f"/proc/self/fd/{parent}",
            pass_fds=(parent,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            check=False,
        )
        if done.returncode:
            # Who is killed says nothing.
            end = f"{name} is not removed: rm ended with {done.returncode}"
            raise OSError([*done.stderr.strip().splitlines(), end][0])
