# SPDX-License-Identifier: Apache-2.0
"""Meter of what unpacking an archive takes, with limits.

It runs next to tar. What goes into tar is no measure alone: a name can have a
thousand directories made, and a sparse file of a few bytes take many blocks.
So the free space of the filesystem is looked at too; and because others write
to that as well, the tree itself before it is said to be too large.
"""

from __future__ import annotations

import os
import stat
import threading

from lxc_userns.linux import directory
from lxc_userns.linux.fd import open_file
from lxc_userns.rootfs.archive import depth_first

TYPE_CHECKING = False  # It loads little, to start quickly.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What can be exceeded, or run short on the filesystem.
BYTES, INODES = "bytes", "inodes"
FREE_BYTES, FREE_INODES = "free bytes", "free inodes"
#: Limit of the bytes of the whole tree, where that had some before.
TREE = "tree"

#: What is left of a filesystem: a part of it, and that is enough.
_PART = 20
_ENOUGH_BYTES = 1 << 30
_ENOUGH_INODES = 10_000
_BLOCK = 512


def find_shortage(fd: int, bytes_needed: int) -> str | None:
    """Return what runs short on a filesystem: bytes, inodes, or nothing.

    :param fd: descriptor of any file on it.
    :param bytes_needed: what is to be written to it.
    """
    found = os.fstatvfs(fd)
    size = found.f_blocks * found.f_frsize
    free = found.f_bavail * found.f_frsize - bytes_needed
    # Some have 0 of 0: ramfs of blocks, btrfs of inodes.
    if size and free < min(size // _PART, _ENOUGH_BYTES):
        return FREE_BYTES
    if found.f_favail < min(found.f_files // _PART, _ENOUGH_INODES):
        return FREE_INODES
    return None


def _sync(view: int) -> None:
    # By a descriptor that is not O_PATH.
    with open_file(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=view) as fd:
        directory.sync_filesystem(fd)


class Meter:
    """Adds up what tar reads and makes, by several threads.

    :param view: descriptor of the root of the new tree.
    :param limits: how many :data:`BYTES` and :data:`INODES`; :data:`TREE` if
        that is another number.
    :param stop: called once, when a limit is exceeded or space runs short.
    :param pausing: stops tar while it is called, and has it go on after.
    :param sync: writes out what is written to the filesystem of a directory.
    """

    def __init__(
        self,
        view: int,
        limits: Mapping[str, int],
        stop: Callable[[], None],
        pausing: Callable[[Callable[[], int]], int],
        sync: Callable[[int], object] = _sync,
    ) -> None:
        #: What was exceeded, if anything was.
        self.exceeded: str | None = None
        self._view = view
        self._left = dict(limits)
        self._limits = limits
        self._max_bytes = limits.get(TREE, limits[BYTES])
        self._stop = stop
        self._sync = sync
        self._pausing = pausing
        self._lock = threading.Lock()
        self._unsynced = 0
        # Of free space, what it may still fall to without a closer look.
        self._floor = self._free() - limits[BYTES]

    def add(self, kind: str, number: int) -> None:
        """Count what was read or made.

        :param kind: :data:`BYTES` or :data:`INODES`.
        """
        with self._lock:
            if self.exceeded is None:
                self._left[kind] -= number
                self._unsynced += number if kind == BYTES else 0
                self.exceeded = self._find_exceeded(kind)
                if self.exceeded is not None:
                    self._stop()

    def used(self, kind: str) -> int:
        """Return how much of something was counted."""
        return self._limits[kind] - self._left[kind]

    def _find_exceeded(self, kind: str) -> str | None:
        if self._left[kind] < 0:
            return kind
        short = self._find_shortage()
        if short is not None:
            return short
        if self._free() < self._floor:
            used = self._pausing(self._measure)
            if used > self._max_bytes:
                return BYTES
            self._floor = self._free() - (self._max_bytes - used)
        return None

    def _find_shortage(self) -> str | None:
        # To btrfs, space is free until something was written to it.
        if find_shortage(self._view, self._unsynced) == FREE_BYTES:
            self._sync(self._view)
            self._unsynced = 0
        return find_shortage(self._view, 0)

    def _free(self) -> int:
        found = os.fstatvfs(self._view)
        return found.f_bfree * found.f_frsize

    def _measure(self) -> int:
        """Return what the new tree takes on disk, in bytes."""
        # Names are relative to it, and so no longer than tar can make them.
        os.fchdir(self._view)
        used = 0.0
        for path, names in depth_first.directories():
            with os.scandir(path) as entries:
                for entry in entries:
                    used += _usage(entry.stat(follow_symlinks=False))
                    if entry.is_dir(follow_symlinks=False):
                        names.append(entry.name)
        return int(used)


def _usage(status: os.stat_result) -> float:
    # All names of a file are in the new tree.
    names = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    return status.st_blocks * _BLOCK / names
