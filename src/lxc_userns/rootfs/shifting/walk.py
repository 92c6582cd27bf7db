# SPDX-License-Identifier: Apache-2.0
"""Walking a tree by descriptors, whatever a hostile image made of it.

The process changes into each directory by its descriptor, so that every name
is looked up in exactly that directory: no path is ever built, no symbolic
link is followed, no depth is too deep for PATH_MAX. It therefore belongs in a
worker process, which has its working directory for itself.

Somebody may change the tree meanwhile. What is no longer where it was read is
counted as missed, for whoever asked for the walk to repeat it. So is a
directory that changes until it has been read: only what has been taken out of
one before that, and put into another that was read earlier, is met in neither.
"""

from __future__ import annotations

import errno
import os
import time
from itertools import islice

from lxc_userns.rootfs.shifting import kernel_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Size in bytes from which a directory is read piece by piece, for it may
#: have millions of entries; below, all at once is quicker.
_LARGE = 1 << 20
#: Names held in memory for a large directory.
_BATCH = 4096
#: Directories of one walk that are held open, unless they are large.
_MOST_OPEN = 64
#: Longest path, in bytes, below which directories are handed on, and most
#: bytes of it and of their names; a queue takes 4095.
_LONGEST_RELPATH = 1000
_PACKET = 3000
_OPEN = (
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC
)
#: Errors of a directory that is no longer where it was.
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))


class ChangedError(OSError):
    """A directory is no longer where it was."""


def open_directory(name: bytes | str, dir_fd: int | None = None) -> int:
    """Open a directory that is no link, leaving its access time alone.

    :raises OSError: ENOTDIR or ELOOP if it is anything else.
    """
    return os.open(name, _OPEN, dir_fd=dir_fd)


def _read_large(fd: int) -> Iterator[list[bytes]]:
    with os.scandir(fd) as entries:
        while batch := [e.name for e in islice(entries, _BATCH)]:
            yield list(map(os.fsencode, batch))


class _Frame:
    """A directory whose entries are being visited.

    :param fd: its descriptor, owned by the frame.
    :param size: its size in bytes.
    :param depth: how many directories it is below where the walk began.
    :param relpath: its path below the root, for handing subdirectories on;
        None if that is too long.
    """

    __slots__ = (
        "_batches",
        "_identity",
        "_size",
        "depth",
        "fd",
        "relpath",
        "subdirs",
    )

    def __init__(
        self, fd: int, size: int, depth: int, relpath: bytes | None
    ) -> None:
        self.fd = fd
        self.depth = depth
        self._identity: tuple[int, int] | None = None
        self._size = size
        self.relpath = relpath
        self.subdirs: list[tuple[bytes, int | None]] = []
        self._batches: Iterator[list[bytes]] | None = None

    def read(self, noatime: bool) -> list[bytes]:
        """Return the first names; the directory is the working directory.

        :param noatime: whether its mount spares access times; otherwise only
            the frame's own descriptor does.
        """
        if self._size < _LARGE:
            if noatime:
                return os.listdir(b".")
            return list(map(os.fsencode, os.listdir(self.fd)))
        self._batches = _read_large(self.fd)
        return self.read_on()

    def read_on(self) -> list[bytes]:
        """Return more names, none at the end."""
        names = next(self._batches, []) if self._batches else []
        if len(names) < _BATCH:
            self._batches = None
        return names

    def was_changed(self, since: int) -> bool:
        """Return whether names came or went from a time on, in ns.

        A later time than now is somebody's invention.
        """
        return since <= os.fstat(self.fd).st_mtime_ns <= time.time_ns()

    @property
    def is_read(self) -> bool:
        """Return whether all names were read."""
        return self._batches is None

    @property
    def is_spent(self) -> bool:
        """Return whether nothing is left to read or to descend into."""
        return self._batches is None and not self.subdirs

    def relpath_to(self, name: bytes) -> bytes | None:
        """Return the path of a subdirectory, None if too long."""
        relpath = self.relpath
        if relpath is None or len(relpath) + len(name) > _LONGEST_RELPATH:
            return None
        return b"%b/%b" % (relpath, name) if relpath else name

    def take_half(self) -> list[bytes]:
        """Return half of the subdirectories that are left, fit for a packet.

        :returns: the directory's path below the root, and the last names;
            empty if the path is too long.
        """
        if self.relpath is None:
            return []
        packed = [self.relpath]
        room = _PACKET - len(self.relpath)
        for name, _ in reversed(self.subdirs[len(self.subdirs) // 2 :]):
            room -= len(name) + 1
            if room < 0:
                break
            packed.append(name)
        return packed

    def close(self) -> None:
        """Close the directory."""
        self._batches = None
        if self._identity is None:
            os.close(self.fd)

    def close_fd(self) -> None:
        """Do without the descriptor while directories below are walked."""
        if self._batches is None and self._identity is None:
            self._identity = _identify(self.fd)
            os.close(self.fd)

    def reopen_fd(self, below: _Frame) -> None:
        """Reopen the descriptor, by the way up from a directory below.

        :raises ChangedError: if a directory on the way was moved.
        """
        if self._identity is None:
            return
        fd = os.dup(below.fd)
        for _ in range(below.depth - self.depth):
            try:
                parent = open_directory("..", dir_fd=fd)
            finally:
                os.close(fd)
            fd = parent
        if _identify(fd) != self._identity:
            os.close(fd)
            raise ChangedError(errno.ESTALE, "moved while it was walked")
        self.fd, self._identity = fd, None


def _identify(fd: int) -> tuple[int, int]:
    st = os.fstat(fd)
    return st.st_dev, st.st_ino


class Walk:
    """All names below one directory, in no particular order.

    :param fd: descriptor of the directory; it is the walk's to close.
    :param relpath: its path below the root of the tree.
    :param subdirs: what to walk of it; empty: all of it.
    :param since: time by the filesystem's clock, in ns, from which on a
        change of a directory counts; None if none does.

    ``missed`` is the number of directories of which something was missed.
    """

    def __init__(
        self,
        fd: int,
        relpath: bytes = b"",
        subdirs: Sequence[bytes] = (),
        since: int | None = None,
    ) -> None:
        top = _Frame(fd, os.fstat(fd).st_size, 0, relpath)
        top.subdirs += ((name, None) for name in subdirs)
        self._stack = [top]
        self._noatime = bool(os.fstatvfs(fd).f_flag & os.ST_NOATIME)
        self._since = since
        self.missed = 0

    @property
    def relpath(self) -> bytes | None:
        """Path below the root of the directory of the batch at hand.

        None if it is too long.
        """
        return self._stack[-1].relpath

    def __iter__(
        self,
    ) -> Iterator[tuple[list[bytes], list[tuple[bytes, int | None]]]]:
        """Yield batches of names, each in the working directory of its turn.

        :returns: names, and an empty list to which the caller adds (name,
            size in bytes) of those that are directories to descend into.
        :raises OSError: if a directory cannot be opened or read.
        """
        fresh = not self._stack[0].subdirs
        try:
            while self._stack:
                frame = self._stack[-1]
                names = self._read(frame, fresh)
                if fresh or names:
                    yield names, frame.subdirs
                fresh = self._descend(frame)
        finally:
            for frame in self._stack:
                frame.close()

    def _read(self, frame: _Frame, fresh: bool) -> list[bytes]:
        """Read names if it is their turn, in the directory that has them."""
        if not fresh and (frame.is_read or frame.subdirs):
            return []
        os.fchdir(frame.fd)
        names = frame.read(self._noatime) if fresh else frame.read_on()
        if self._since is not None and frame.is_read:
            self.missed += frame.was_changed(self._since)
        return names

    def _descend(self, frame: _Frame) -> bool:
        """Go into a subdirectory, or leave the directory if it has none.

        :returns: whether a subdirectory was entered.
        """
        below = None
        while below is None and frame.subdirs:
            below = self._open(frame, *frame.subdirs.pop())
        if frame.is_spent:
            # Left before the last subdirectory is entered, so that a chain
            # of thousands of directories needs no descriptor for each.
            self._stack.pop()
            try:
                if below is None and self._stack:
                    self._stack[-1].reopen_fd(frame)
            finally:
                frame.close()
        if below is None:
            return False
        self._stack.append(below)
        if len(self._stack) > _MOST_OPEN:
            # A directory with two in it, one of them with two, and so on.
            self._stack[-_MOST_OPEN].close_fd()
        return True

    def _open(
        self, frame: _Frame, name: bytes, size: int | None
    ) -> _Frame | None:
        try:
            fd = open_directory(name, dir_fd=frame.fd)
        except OSError as err:
            if err.errno not in _GONE:
                raise kernel_paths.located(err, frame.fd, name) from err
            self.missed += 1
            return None
        if size is None:
            size = os.fstat(fd).st_size
        return _Frame(fd, size, frame.depth + 1, frame.relpath_to(name))

    def share(self, give: Callable[[Sequence[bytes]], bool]) -> None:
        """Offer subdirectories, as near to the root as can be, to others.

        :param give: takes a directory's path below the root of the tree, and
            names of subdirectories in it; returns whether somebody else will
            walk them.
        """
        for frame in self._stack:
            if frame.subdirs:
                packed = frame.take_half()
                if packed and give(packed):
                    del frame.subdirs[1 - len(packed) :]
                return


def open_below(root: int, relpath: bytes) -> int:
    """Open the directory at a path below a root, one name at a time.

    :param root: descriptor of the root.
    :param relpath: path of names, neither ``.`` nor ``..``; empty: the root.
    :raises ChangedError: if a name is not there, or no directory.
    :raises OSError: if one cannot be opened.
    """
    fd = open_directory(".", dir_fd=root)
    for name in relpath.split(b"/") if relpath else ():
        try:
            below = open_directory(name, dir_fd=fd)
        except OSError as err:
            if err.errno in _GONE:
                raise ChangedError(err.errno, err.strerror) from err
            raise kernel_paths.located(err, fd, name) from err
        finally:
            os.close(fd)
        fd = below
    return fd
