# SPDX-License-Identifier: Apache-2.0
"""Programs in a tree that would make a user of the host root.

On disk a shifted tree has host IDs of its container. A set-user-ID program
that is the host root's, or file capabilities that count on the host, are left
from an image that was shifted wrongly, or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

from lxc_userns.linux import directory, mount_api, namespaces
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs.shifting import filecaps
from lxc_userns.rootfs.shifting.walk import Walk, open_directory
from lxc_userns.text import printable

_EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


def find(path: str, most: int) -> list[str]:
    """Return programs that give the rights of the host's users.

    Reads names and attributes, opens nothing but directories, follows no
    link and crosses into no other mount.

    :param path: the tree, without links.
    :param most: how many are enough.
    :returns: their paths below the tree, fit for a message.
    :raises OSError: if a directory cannot be read.
    """
    # A walk changes the working directory.
    with ThreadPoolExecutor(
        max_workers=1, initializer=namespaces.unshare_working_directory
    ) as executor:
        return executor.submit(_find, path, most).result()


def _find(path: str, most: int) -> list[str]:
    with _opened(path) as (root, top):
        return [*islice(_walk(root, top), most)]


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, str]]:
    """Open a tree without what is mounted in it; also return its path."""
    with (
        directory.opened(path) as given,
        owned(mount_api.clone_mount(given)) as copy,
    ):
        root = open_directory(".", dir_fd=copy)
        # The walk closes it.
        yield root, os.readlink(f"/proc/self/fd/{root}").rstrip("/")


def _walk(root: int, top: str) -> Iterator[str]:
    for names, subdirs in Walk(root):
        for name in names:
            try:
                status = os.lstat(name)
                found = _is_dangerous(name, status)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                subdirs.append((name, status.st_size))
            if found:
                place = os.readlink("/proc/thread-self/cwd")
                below = place.removeprefix(top).rstrip("/")
                yield printable(f"{below}/{os.fsdecode(name)}")


def _is_dangerous(name: bytes, status: os.stat_result) -> bool:
    mode = status.st_mode
    if not stat.S_ISREG(mode) or not mode & _EXECUTABLE:
        return False
    if status.st_uid == 0 and mode & stat.S_ISUID:
        return True
    try:
        value = os.getxattr(name, filecaps.NAME, follow_symlinks=False)
    except OSError as err:
        if err.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        if err.errno == errno.EINVAL:
            # execve(2) takes its sets, whatever flags are with them.
            return True
        raise
    return filecaps.is_of_host(value)
