# SPDX-License-Identifier: Apache-2.0
"""Where a tree is kept until it is whole: a directory next to its place.

It is for root alone, locked by who works in it, and its name follows from
that of the place, so that what a killed process has left is found and removed
by the next one. The tree comes to its place by a rename, which happens at
once or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import directory, mounts, removal, safe_path, syncing
from lxc_userns.rootfs import acl, refusals
from lxc_userns.rootfs.backing import translated
from lxc_userns.rootfs.tree import printable
from lxc_userns.undo import undo

_MODE = 0o700
_TREE = "tree"
#: Seconds to wait for another process: long enough for those that a killed
#: one has started to notice that they are alone.
_PATIENCE = 5.0
_RETRY = 0.02


class Holder:
    """A holder, opened and locked; see :func:`opened`.

    :param path: where the tree is to be, for messages.
    :param fd: its descriptor; the lock lasts as long as any copy of it.
    :param parent: descriptor of the directory that it is in.
    :param name: the tree's name there.
    """

    def __init__(self, path: str, fd: int, parent: int, name: str) -> None:
        self.path = path
        self.fd = fd
        self._parent = parent
        self._name = name

    @contextmanager
    def fresh_tree(self, owner: tuple[int, int]) -> Iterator[int]:
        """Make a new directory in it, instead of what may be there.

        :param owner: user and group ID.
        :returns: its descriptor.
        """
        self.clear()
        directory.make_in(self.fd, _TREE, 0o755)
        with directory.opened_in(self.fd, _TREE) as tree:
            os.fchown(tree, *owner)
            yield tree

    def clear(self) -> None:
        """Remove all that is in it."""
        removal.remove_tree(self.fd, _TREE)

    def check_free(self) -> None:
        """Check that the place can be had.

        :raises RootfsError: if anything but an empty directory is there.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._name, flags, dir_fd=self._parent)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            reason = "is there already, and no directory"
            raise RootfsError(self.path, reason) from None
        try:
            self._check_replaceable(fd)
        finally:
            os.close(fd)

    def _check_replaceable(self, fd: int) -> None:
        places = [
            (os.fstat(each).st_dev, mounts.mount_id(each))
            for each in (fd, self._parent)
        ]
        if places[0] != places[1]:
            raise RootfsError(
                self.path,
                "is a mount point or a subvolume, which cannot be replaced; "
                "give a directory in it",
            )
        if os.listdir(fd):
            raise RootfsError(self.path, "is not empty")

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """Have all that was written so far on the disk in the end."""
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(syncing.sync_filesystem, self.fd)
            yield
        done.result()

    def release(self) -> None:
        """Put the tree in its place."""
        try:
            # An empty directory is replaced, and nothing else.
            os.rename(
                _TREE,
                self._name,
                src_dir_fd=self.fd,
                dst_dir_fd=self._parent,
            )
        except OSError as err:
            reason = f"something was put there meanwhile: {err.strerror}"
            raise RootfsError(self.path, reason) from err


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Holder]:
    """Make a holder for a place and lock it; it is gone afterwards.

    :param path: a directory that is not there yet, or is empty.
    :raises RootfsError: if the place is taken, or another process works on
        it; for every OSError in the body too.
    """
    given = os.fspath(path)
    shown = printable(given)
    above, name = os.path.split(given.rstrip("/"))
    if name in ("", ".", ".."):
        raise RootfsError(shown, "is not the name of a directory to make")
    with translated(shown), ExitStack() as stack:
        place, _ = stack.enter_context(
            safe_path.opened_parent(os.path.join(os.path.abspath(above), name))
        )
        parent = stack.enter_context(directory.opened_in(place, "."))
        refusals.check_no_view(parent, shown)
        holder_name = _holder_name(name)
        fd = _make_locked(parent, holder_name, shown)
        stack.callback(os.close, fd)
        stack.callback(_remove, parent, holder_name)
        holder = Holder(shown, fd, parent, name)
        holder.check_free()
        undo(stack, holder.clear)
        yield holder


def _holder_name(name: str) -> str:
    # With the name in it, it could be longer than a name can be.
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".unpacking-{digest[:16]}"


def _make_locked(parent: int, name: str, path: str) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        # Who had the lock before may remove it meanwhile.
        with suppress(FileNotFoundError):
            fd = _make(parent, name)
            if _lock(fd) and _is_there(parent, name, fd):
                return fd
            os.close(fd)
        if time.monotonic() > deadline:
            raise RootfsError(path, "another process is unpacking to it")
        time.sleep(_RETRY)


def _make(parent: int, name: str) -> int:
    directory.make_in(parent, name, _MODE)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent)
    try:
        # A parent can hand its group down, and an ACL for all that is made
        # in it, which are not the archive's.
        os.fchmod(fd, _MODE)
        with suppress(OSError):
            os.removexattr(fd, acl.DEFAULT)
        directory.check(fd, name, _MODE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(parent: int, name: str, fd: int) -> bool:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return os.path.samestat(status, os.fstat(fd))


def _remove(parent: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as err:
        # What could not be removed has been an error already.
        if err.errno != errno.ENOTEMPTY:
            raise
