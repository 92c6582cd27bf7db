# SPDX-License-Identifier: Apache-2.0
"""Staging directory next to a tree's place, until the tree is whole.

If its place is a directory that is there already, it is in that.

It is for root alone, locked by who works in it, and its name follows from
that of the place, so that what a killed process has left is found and removed
by the next one. The tree comes to its place by a rename, which happens at
once or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import directory, locks, safe_path
from lxc_userns.linux.fd import closed_on_error, owned
from lxc_userns.rollback import undo
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.archive import destination
from lxc_userns.rootfs.archive.destination import TREE, Kept, New
from lxc_userns.rootfs.shifting import acl
from lxc_userns.text import printable

_MODE = 0o700
#: Seconds to wait for another process: long enough for those that a killed
#: one has started to notice that they are alone.
_PATIENCE = 5.0
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class StagingDirectory:
    """A staging directory, opened and locked; see :func:`open_staging`.

    :param path: where the tree is to be, for messages.
    :param fd: its descriptor; the lock lasts as long as any copy of it.
    :param name: its name.
    :param destination: where the tree is to be.
    :param way: descriptor of a directory that is reached as the tree will be.
    """

    def __init__(
        self, path: str, fd: int, name: str, destination: New | Kept, way: int
    ) -> None:
        self.path = path
        self.fd = fd
        self.way = way
        self._name = name
        self._destination = destination

    @contextmanager
    def new_tree(self, owner: tuple[int, int]) -> Iterator[int]:
        """Make a new directory in it, instead of what may be there.

        :param owner: user and group ID.
        :returns: its descriptor.
        """
        self.clear()
        directory.make_in(self.fd, TREE, 0o755)
        with directory.opened_in(self.fd, TREE) as tree:
            os.fchown(tree, *owner)
            yield tree

    def clear(self) -> None:
        """Remove all that is in it."""
        directory.remove_tree(self.fd, TREE)

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """Synchronise what was written with the disk in the end."""
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(directory.sync_filesystem, self.fd)
            yield
        done.result()

    def publish(self) -> None:
        """Put the tree in its place."""
        self._destination.release(self.fd, self._name)


@contextmanager
def open_staging(path: str | os.PathLike[str]) -> Iterator[StagingDirectory]:
    """Make a staging directory for a place and lock it; it is gone afterwards.

    :param path: a directory that is not there yet, or is empty.
    :raises RootfsError: if the place is taken, or another process works on
        it; for every OSError in the body too.
    """
    given = os.fspath(path)
    shown = printable(given)
    above, name = os.path.split(given.rstrip("/"))
    if name in ("", ".", ".."):
        raise RootfsError(
            shown, "is not the name of a directory to make; end it with one"
        )
    with translated(RootfsError, shown), ExitStack() as stack:
        above_fd, _ = stack.enter_context(
            safe_path.opened_parent(os.path.join(os.path.abspath(above), name))
        )
        parent = stack.enter_context(directory.opened_in(above_fd, "."))
        staging_name = _staging_name(name)
        kept = destination.open_kept(parent, name, shown)
        place: New | Kept
        if kept is None:
            place, room = New(shown, parent, name), parent
            destination.check_writable(room, printable(above or "."))
        else:
            stack.enter_context(owned(kept))
            place, room = Kept(shown, kept), kept
            destination.check_writable(room, shown)
        refusals.check_no_view(room, shown)
        place.check_free(staging_name)
        fd = _make_locked(room, staging_name, shown)
        stack.enter_context(owned(fd))
        stack.callback(_remove, room, staging_name)
        stack.callback(place.put_back, fd)
        place.prepare(fd, staging_name)
        way = fd if kept is None else kept
        staging = StagingDirectory(shown, fd, staging_name, place, way)
        undo(stack, staging.clear)
        yield staging


def remove_left(parent: int, name: str) -> None:
    """Remove what a killed process has left beside a tree that is whole.

    :param parent: descriptor of the directory that has both.
    :param name: name of the tree.
    """
    with suppress(FileNotFoundError):
        _remove(parent, _staging_name(name))


def _staging_name(name: str) -> str:
    # With the name in it, it could be longer than a name can be.
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".unpacking-{digest[:16]}"


def _make_locked(parent: int, name: str, path: str) -> int:
    try:
        return locks.acquire(parent, name, limit=_PATIENCE, make=_make)
    except TimeoutError:
        raise RootfsError(
            path,
            "another process is unpacking to it; wait until it has ended",
        ) from None


def _make(parent: int, name: str) -> int | None:
    try:
        directory.make_in(parent, name, _MODE)
        fd = os.open(name, _FLAGS, dir_fd=parent)
    except FileNotFoundError:
        return None  # Who had the lock before may remove it meanwhile.
    with closed_on_error(fd):
        # A parent can hand its group down, and an ACL for all that is made
        # in it, which are not the archive's.
        os.fchmod(fd, _MODE)
        with suppress(OSError):
            os.removexattr(fd, acl.DEFAULT)
        directory.check(fd, name, _MODE)
    return fd


def _remove(parent: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as err:
        # What could not be removed has been an error already.
        if err.errno != errno.ENOTEMPTY:
            raise
