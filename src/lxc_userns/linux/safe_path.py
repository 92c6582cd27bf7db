# SPDX-License-Identifier: Apache-2.0
"""Safe paths: opened without links, through directories of root's alone.

A path is looked up one name at a time, each in the directory that the name
before has opened, so that what is checked is what is opened. Whoever may
write to one of these directories, or owns it, can make the next lookup lead
elsewhere, to a directory that only root may hand out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lxc_userns.linux.fd import owned

Check = Callable[[str, str, os.stat_result, Collection[int]], None]

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Trust:
    """Rules for the directories on the way.

    :param roots: absolute paths of directories below which, and above which,
        those of the directory's own owner count as root's. Without links that
        owner can put there only what lies beside it.
    :param any_owner: whether directories of others, or that others may write
        to, are accepted; whoever opens then checks by other means what was
        found. Links are refused all the same.
    :param links: whether symbolic links of root's are followed, but for the
        path's last part. No container may be able to make one there.
    """

    roots: Collection[str] = ()
    any_owner: bool = False
    links: bool = False


#: Root's directories alone.
ROOT_ONLY = Trust()
#: The same for paths of which nothing is given to containers.
OWN = Trust(links=True)
#: As many as the kernel follows (:manpage:`path_resolution(7)`).
_MOST_LINKS = 40


class ReplaceableError(PermissionError):
    """Somebody but root could replace a part of a path."""


@contextmanager
def opened(path: str, trust: Trust = ROOT_ONLY) -> Iterator[int]:
    """Open a file or directory of any kind with ``O_PATH``.

    Nothing is started or waited for, as opening a device or a pipe would.
    Users of an access control list count too: its mask shows as the group's
    permissions (:manpage:`acl(5)`).

    :param path: absolute path without empty, ``.`` and ``..`` parts.
    :raises ReplaceableError: if somebody but root could replace a part of
        it, naming the directory and a remedy.
    :raises PermissionError: if a part is a symbolic link.
    :raises OSError: if it is not there.
    """
    with owned(open_fd(path, trust)) as fd:
        yield fd


def open_fd(path: str, trust: Trust = ROOT_ONLY) -> int:
    """Return a descriptor as :func:`opened`, for the caller to close."""
    return _follow(path, trust)[0]


@contextmanager
def opened_parent(path: str) -> Iterator[tuple[int, str]]:
    """Open the directory in which a file is, or is to be made.

    :param path: as for :func:`opened`, but with links of root's on the way.
    :returns: an ``O_PATH`` descriptor, and the file's name.
    :raises ReplaceableError: if somebody but root could replace the file.
    """
    parent, name = os.path.split(path)
    here = resolve(parent)
    with opened(here) as fd:
        _check_directory(here, name, os.fstat(fd), {0, os.geteuid()})
        yield fd, name


def resolve(path: str) -> str:
    """Return a path without the links that it has, which are all root's.

    :param path: as for :func:`opened`; its last part may be a link too.
    :raises ReplaceableError: if somebody but root could replace a part.
    :raises OSError: if it is not there.
    """
    fd, found = _follow(path, OWN, last=True)
    os.close(fd)
    return found


def _follow(path: str, trust: Trust, *, last: bool = False) -> tuple[int, str]:
    for _ in range(_MOST_LINKS + 1):
        walk = _Walk(trust, last)
        try:
            target = walk.follow(path)
            if target is None:
                return walk.take(), path
            path = target
        finally:
            walk.close()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


class _Walk:
    """A walk from the root directory down; open is where it has come to."""

    def __init__(self, trust: Trust, last: bool) -> None:
        self._trust = trust
        self._last = last
        self._owners = {0, os.geteuid()}
        # The root on the way, and owners met above it, by what they hold.
        self._root: str | None = None
        self._above: dict[int, tuple[str, str]] = {}
        self._fd = os.open("/", _FLAGS)

    def follow(self, path: str) -> str | None:
        """Go all the way, or as far as a link that is followed.

        :returns: None, or the path that the link makes of this one.
        """
        below = [
            r for r in self._trust.roots if f"{path}/".startswith(f"{r}/")
        ]
        self._root = min(below, key=len, default=None)
        names = [name for name in path.split("/") if name]
        for depth, name in enumerate(names):
            here = "/" + "/".join(names[:depth])
            rest = "/".join(names[depth + 1 :])
            target = self._step(here, name, follows=bool(rest) or self._last)
            if target is not None:
                return os.path.normpath(os.path.join(here, target, rest))
        if path == self._root:
            self._enter_root()
        return None

    def _step(self, here: str, name: str, *, follows: bool) -> str | None:
        """Enter a name, or return where a link that has it leads."""
        if here in self._trust.roots:
            self._enter_root()
        self._check(here, name, self._fd, _check_directory)
        child = os.open(name, _FLAGS, dir_fd=self._fd)
        try:
            if os.fstat(self._fd).st_mode & _OTHERS_WRITE:
                self._check(here, name, child, _check_sticky)
            if stat.S_ISLNK(os.fstat(child).st_mode):
                return self._read_link(here, name, child, follows=follows)
            self._fd, child = child, self._fd
            return None
        finally:
            os.close(child)

    def _check(self, here: str, name: str, fd: int, check: Check) -> None:
        if self._trust.any_owner:
            return
        status = os.fstat(fd)
        owners = self._owners
        if self._root is not None and len(here) < len(self._root):
            self._above.setdefault(status.st_uid, (here, name))
            owners = owners | {status.st_uid}
        check(here, name, status, owners)

    def _enter_root(self) -> None:
        """Trust the owner, and see that no one else has what is above."""
        self._owners.add(os.fstat(self._fd).st_uid)
        for owner, (here, name) in self._above.items():
            if owner not in self._owners and not self._trust.any_owner:
                raise _owned_by_another(here, name, owner)
        self._above.clear()

    def _read_link(
        self, here: str, name: str, link: int, *, follows: bool
    ) -> str:
        target = os.readlink("", dir_fd=link)
        is_own = os.fstat(link).st_uid in self._owners
        if follows and self._trust.links and is_own:
            return target
        raise PermissionError(
            f"{here.rstrip('/')}/{name} is a symbolic link, to {target!r}, "
            "and is not followed; give the path without links"
        )

    def take(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close what is open."""
        if self._fd >= 0:
            os.close(self._fd)


def _check_directory(
    here: str, name: str, status: os.stat_result, owners: Collection[int]
) -> None:
    if status.st_uid not in owners:
        raise _owned_by_another(here, name, status.st_uid)
    # In a sticky directory no one moves what is root's.
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise ReplaceableError(
            f"other users may write to its parent {here}, and could replace "
            f"{name} in it; chmod go-w {here}, or move it elsewhere"
        )


def _owned_by_another(here: str, name: str, owner: int) -> ReplaceableError:
    return ReplaceableError(
        f"its parent {here} belongs to user {owner}, who could replace {name} "
        f"in it; chown root {here}, or move it elsewhere"
    )


def _check_sticky(
    here: str, name: str, status: os.stat_result, owners: Collection[int]
) -> None:
    if status.st_uid not in owners:
        raise ReplaceableError(
            f"{name} in {here}, where all may write, belongs to user "
            f"{status.st_uid}, who could replace it; move it elsewhere"
        )
