# SPDX-License-Identifier: Apache-2.0
"""Contents of a tree that stay out of an archive, found before tar starts.

It runs in the sandbox, as the root of a user namespace that sees the tree and
no other files: whatever the tree does meanwhile, its paths lead to nothing
else. It loads little, to start quickly.
"""

from __future__ import annotations

import errno
import os
import stat

from lxc_userns.linux.fd import owned
from lxc_userns.rootfs.archive import depth_first
from lxc_userns.text import printable

#: Bytes of a path below the root that tar can unpack: to the kernel it is one
#: with ``./`` before it, and a null byte after (PATH_MAX of limits.h).
LONGEST_PATH = 4096 - 3
#: Bytes of the names of device nodes that fit into a command line.
_MOST_NAMES = 1 << 20
#: Characters of a path that are shown.
_LONGEST_SHOWN = 78
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Errors of what is no longer where it was.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class ContentsError(Exception):
    """A tree that tar cannot have; the argument is the reason."""


class Contents:
    """Looks at all names of a tree.

    :param root: descriptor of its root directory.
    :raises ContentsError: if a path is too long, or there are too many device
        nodes.
    :raises OSError: if a directory cannot be read.
    """

    def __init__(self, root: int) -> None:
        #: Names of device nodes, as tar has them.
        self.devices: list[str] = []
        #: Names that are listed, and are of nothing: on an overlay, whiteouts
        #: of a layer below that nothing is merged with.
        self.absent: list[str] = []
        #: Inodes that are sockets or device nodes.
        self.sockets: set[tuple[int, int]] = set()
        self.nodes: set[tuple[int, int]] = set()
        self._root = root
        self._named = 0
        for path, names in depth_first.directories():
            names += self._read(path)

    def _read(self, path: str) -> list[str]:
        """Look at a directory; return the names of those in it."""
        try:
            fd = os.open(path, _FLAGS, dir_fd=self._root)
        except OSError as err:
            if err.errno in _GONE:
                return []
            raise
        names = []
        with owned(fd), os.scandir(fd) as entries:
            for entry in entries:
                below = f"{path}/{entry.name}"
                _check_length(below)
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
                elif not (entry.is_symlink() or entry.is_file()):
                    self._look_at(entry, below)
        return names

    def _look_at(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            self._leave_out(self.absent, path)
            return
        number = status.st_dev, status.st_ino
        if stat.S_ISSOCK(status.st_mode):
            self.sockets.add(number)
        elif _is_device(status):
            self.nodes.add(number)
            self._leave_out(self.devices, path)

    def _leave_out(self, names: list[str], path: str) -> None:
        names.append(path)
        self._named += len(os.fsencode(path))
        if self._named > _MOST_NAMES:
            raise ContentsError(
                "has too many device nodes to leave them out by name; "
                "remove them: no container can use any"
            )


def _is_device(status: os.stat_result) -> bool:
    # A whiteout of overlayfs has number 0:0, and no device is behind it.
    return stat.S_ISBLK(status.st_mode) or (
        stat.S_ISCHR(status.st_mode) and status.st_rdev != 0
    )


def _check_length(path: str) -> None:
    size = len(os.fsencode(path)) - len("./")
    if size > LONGEST_PATH:
        # Escaped, or the result of the sandbox would be none.
        shown = printable(path[2:80])[:_LONGEST_SHOWN]
        raise ContentsError(
            f"has a path of {size} bytes, {shown}..., and tar can "
            f"unpack {LONGEST_PATH}; shorten it"
        )
