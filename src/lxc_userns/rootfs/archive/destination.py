# SPDX-License-Identifier: Apache-2.0
"""Destination of a tree: a new name, or a directory that is kept.

A directory that is there already stays what it is: the project ID of its
quota, inode flags that what is made in it inherits, mode, ACL and attributes.
So the tree is made inside of it, and moved up name by name. A mark on the
directory tells of one that was interrupted at that.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import directory, inode_flags
from lxc_userns.linux.fd import open_file, owned
from lxc_userns.rootfs.refusals import INTERRUPTED
from lxc_userns.rootfs.shifting.state import STATE

#: Names in the staging directory: of the tree while it is made, and once it
#: is whole.
TREE, _WHOLE = "tree", "whole"
#: What the directory was before: user ID, group ID, and mode in octal.
_BEFORE = "before"
_NOT_EMPTY = "is not empty; give an empty directory, or a new name"
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ATTRIBUTE = (errno.ENODATA, errno.EOPNOTSUPP)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_writable(fd: int, path: str) -> None:
    """Check that a directory takes new names.

    :raises RootfsError: if it is immutable or append-only.
    """
    flags = 0
    with suppress(OSError):  # A filesystem without flags.
        flags = inode_flags.get(fd)
    if flags & (inode_flags.FS_IMMUTABLE_FL | inode_flags.FS_APPEND_FL):
        raise RootfsError(
            path, "is immutable or append-only; chattr -i -a it first"
        )


def open_kept(parent: int, name: str, path: str) -> int | None:
    """Open the directory that is there, None if there is none.

    :param parent: descriptor of the directory that it is in.
    :raises RootfsError: if something else is there.
    """
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        reason = "is there already, and no directory; give a new name"
        raise RootfsError(path, reason) from None


class New:
    """A name that nothing has yet.

    :param path: it, for messages.
    :param parent: descriptor of the directory that it is in.
    :param name: it, there.
    """

    def __init__(self, path: str, parent: int, name: str) -> None:
        self._path = path
        self._parent = parent
        self._name = name

    def check_free(self, staging_name: str) -> None:
        """Leave it to the lock to show whether it can be had."""

    def prepare(self, staging: int, staging_name: str) -> None:
        """Check that it can be had.

        :raises RootfsError: if another process has made it.
        """
        kept = open_kept(self._parent, self._name, self._path)
        if kept is None:
            return
        with owned(kept):
            is_empty = not _names(kept)
        raise RootfsError(
            self._path,
            "was made meanwhile; try again" if is_empty else "is not empty",
        )

    def put_back(self, staging: int) -> None:
        """Leave all as it was before."""

    def release(self, staging: int, staging_name: str) -> None:
        """Give the tree its name.

        :raises RootfsError: if that is taken by now.
        """
        try:
            # An empty directory is replaced, and nothing else.
            os.rename(
                TREE,
                self._name,
                src_dir_fd=staging,
                dst_dir_fd=self._parent,
            )
        except OSError as err:
            reason = f"something was put there meanwhile: {err.strerror}"
            raise RootfsError(self._path, reason) from err


class Kept:
    """An empty directory that stays.

    :param path: it, for messages.
    :param fd: its descriptor.
    """

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd

    def check_free(self, staging_name: str) -> None:
        """Leave alone what is full, unless an unpacking is or was at work.

        :raises RootfsError: if it is that.
        """
        names = _names(self._fd)
        if names and staging_name not in names:
            raise RootfsError(self._path, _NOT_EMPTY)

    def prepare(self, staging: int, staging_name: str) -> None:
        """Close it to others for the time, and check that it is empty.

        :param staging: descriptor of the staging directory, which is in it.
        :param staging_name: name of that.
        :raises RootfsError: if anything else is in it. What was interrupted
            when it was whole is put in place before.
        """
        if _WHOLE in _names(staging):
            self._put_in_place(staging)
        self._check_empty(staging_name)
        self._note(staging)
        status = os.fstat(self._fd)
        if status.st_uid != 0 or status.st_mode & _OTHERS_WRITE:
            # In this order, or its owner could open it again in between.
            os.fchown(self._fd, 0, 0)
            os.fchmod(self._fd, stat.S_IRWXU)
            self._check_empty(staging_name)

    def _check_empty(self, staging_name: str) -> None:
        if set(_names(self._fd)) - {staging_name}:
            raise RootfsError(self._path, _NOT_EMPTY)

    def put_back(self, staging: int) -> None:
        """Give it back as it was; not when it has its content."""
        names = _names(staging)
        if _BEFORE in names and _WHOLE not in names:
            uid, gid, mode = self._read_note(staging)
            os.fchown(self._fd, uid, gid)
            os.fchmod(self._fd, mode)
            _remove_attribute(self._fd, INTERRUPTED)
            os.unlink(_BEFORE, dir_fd=staging)

    def release(self, staging: int, staging_name: str) -> None:
        """Move all of the tree into it.

        :raises RootfsError: if the tree has a name that is needed for that.
        """
        with directory.opened_in(staging, TREE) as tree:
            if staging_name in os.listdir(tree):
                reason = f"the archive has a file {staging_name}; rename that"
                raise RootfsError(self._path, reason)
        with suppress(OSError):  # A filesystem without attributes.
            os.setxattr(self._fd, INTERRUPTED, b"")
        os.rename(TREE, _WHOLE, src_dir_fd=staging, dst_dir_fd=staging)
        self._put_in_place(staging)

    def _put_in_place(self, staging: int) -> None:
        """Do what is left of that, from whatever moment on."""
        with directory.opened_in(staging, _WHOLE) as whole:
            for name in os.listdir(whole):
                os.rename(name, name, src_dir_fd=whole, dst_dir_fd=self._fd)
            status = os.fstat(whole)
            *_, mode = self._read_note(staging)
            os.fchown(self._fd, status.st_uid, status.st_gid)
            os.fchmod(self._fd, mode)
            _copy_attribute(whole, self._fd, STATE)
            _remove_attribute(self._fd, INTERRUPTED)
        os.rmdir(_WHOLE, dir_fd=staging)
        os.unlink(_BEFORE, dir_fd=staging)

    def _note(self, staging: int) -> None:
        """Note what it is, unless an interrupted one has."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with open_file(_BEFORE, flags, 0o600, dir_fd=staging) as fd:
            if os.fstat(fd).st_size == 0:
                status = os.fstat(self._fd)
                mode = stat.S_IMODE(status.st_mode)
                os.write(
                    fd, b"%d %d %o" % (status.st_uid, status.st_gid, mode)
                )
                os.fsync(fd)

    def _read_note(self, staging: int) -> tuple[int, int, int]:
        with open_file(
            _BEFORE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=staging
        ) as fd:
            uid, gid, mode = os.read(fd, 100).split()
        return int(uid), int(gid), int(mode, 8)


def _names(fd: int) -> list[str]:
    """List a directory as it is now.

    A descriptor of btrfs may list what was there when it was opened.
    """
    with directory.opened_in(fd, ".") as fresh:
        return os.listdir(fresh)


def _copy_attribute(source: int, target: int, name: str) -> None:
    """Copy an attribute, or its absence."""
    try:
        value = os.getxattr(source, name)
    except OSError as err:
        if err.errno not in _NO_ATTRIBUTE:
            raise
        _remove_attribute(target, name)
    else:
        os.setxattr(target, name, value)


def _remove_attribute(fd: int, name: str) -> None:
    try:
        os.removexattr(fd, name)
    except OSError as err:
        if err.errno not in _NO_ATTRIBUTE:
            raise
