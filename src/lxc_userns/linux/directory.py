# SPDX-License-Identifier: Apache-2.0
"""Directories of our own, by descriptor and never through a link."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    suppress,
)
from pathlib import Path

from lxc_userns.linux import libc, safe_path
from lxc_userns.linux.fd import closed_on_error, open_file

_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW

_syncfs = libc.function("syncfs", ctypes.c_int)


def opened(path: str | os.PathLike[str]) -> AbstractContextManager[int]:
    """Open a directory; the path's last component is no link.

    :raises OSError: if it is not there, or not a directory.
    """
    return open_file(path, os.O_RDONLY | _FLAGS)


def opened_in(parent: int, name: str) -> AbstractContextManager[int]:
    """Open ``parent/name``, a directory and no link.

    :param parent: descriptor of a directory.
    :raises OSError: if it is not there, or not a directory.
    """
    return open_file(name, os.O_RDONLY | _FLAGS, dir_fd=parent)


def open_regular(parent: int, name: str) -> int:
    """Open ``parent/name`` for reading, if it is a regular file.

    :param parent: descriptor of a directory.
    :returns: its descriptor, which is the caller's to close.
    :raises OSError: if it is not there, or something else; no link is
        followed, and no pipe or device waited for.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, os.O_RDONLY | flags, dir_fd=parent)
    with closed_on_error(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
    return fd


@contextmanager
def open_private(
    path: str, mode: int, *, create: bool = True
) -> Iterator[int]:
    """Open a directory of our own, and check that it is.

    No one else may be able to replace it: all directories above are root's.

    :param path: absolute path; what is missing of it is made.
    :param mode: its mode when it is made, and the most it may allow.
    :param create: whether it is made if missing.
    :raises PermissionError: if it belongs to somebody else, or allows more.
    :raises OSError: if it cannot be made or opened.
    """
    if create:
        make(path, mode)
    with (
        safe_path.opened(path, safe_path.OWN) as place,
        opened_in(place, ".") as fd,
    ):
        check(fd, path, mode)
        yield fd


def check_place(path: str, mode: int) -> None:
    """Check what :func:`open_private` checks, and make nothing.

    Of what is missing, the first parent that is there counts.

    :param path: absolute path.
    :param mode: as for :func:`open_private`.
    :raises OSError: as :func:`open_private`.
    """
    with suppress(FileNotFoundError), open_private(path, mode, create=False):
        return
    while True:
        with suppress(FileNotFoundError), safe_path.opened_parent(path):
            return
        path = os.path.dirname(path)


def check_passable(path: str) -> None:
    """Check that users of containers can pass through a directory.

    A container's root walks down to its view as the mapped user, who needs
    the x of others (:manpage:`path_resolution(7)`).

    :param path: absolute path; what is missing of it is passable once made.
    :raises PermissionError: naming the first directory that is not.
    """
    place = Path(path)
    while not place.exists():
        place = place.parent
    for each in (place.resolve(), *place.resolve().parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            raise PermissionError(
                f"users of containers cannot pass through {each}; chmod o+x "
                f"{each}, or take a path of which all directories have that "
                "mode"
            )


@contextmanager
def make_subdir(
    path: str, mode: int, name: str, name_mode: int
) -> Iterator[int]:
    """Open ``path/name`` of a directory of our own, made if missing.

    :raises OSError: as :func:`open_private`.
    """
    with open_private(path, mode) as fd:
        make_in(fd, name, name_mode)
        with opened_in(fd, name) as found:
            yield found


@contextmanager
def open_subdir(path: str, mode: int, name: str) -> Iterator[int | None]:
    """Open ``path/name`` of a directory of our own, None if missing.

    :raises OSError: as :func:`open_private`, or in the body.
    """
    with ExitStack() as stack:
        try:
            fd = stack.enter_context(open_private(path, mode, create=False))
            found = stack.enter_context(opened_in(fd, name))
        except FileNotFoundError:
            found = None
        yield found


def make(path: str, mode: int) -> None:
    """Make a directory and its parents, unless it is there.

    :param path: absolute path.
    :param mode: its mode, whatever the process's umask; that of parents is
        0755.
    :raises PermissionError: if somebody else could replace one of them.
    """
    try:
        with safe_path.opened(path, safe_path.OWN):
            return
    except FileNotFoundError:
        parent, name = os.path.split(path)
    try:
        parent = safe_path.resolve(parent)
    except FileNotFoundError:
        make(parent, 0o755)
        parent = safe_path.resolve(parent)
    with safe_path.opened(parent) as place, opened_in(place, ".") as fd:
        make_in(fd, name, mode)


def make_in(parent: int, name: str, mode: int) -> None:
    """Make ``parent/name``, unless it is there.

    :param parent: descriptor of a directory.
    :param mode: its mode, whatever the process's umask.
    """
    with suppress(FileExistsError):
        # A umask only takes from it. Who is killed before the next step
        # leaves what it is to be, with the usual umask.
        os.mkdir(name, mode, dir_fd=parent)
        with opened_in(parent, name) as fd:
            os.fchmod(fd, mode)


def replace_file(parent: int, name: str, text: str, mode: int = 0o600) -> None:
    """Write ``parent/name`` to disk, for good, wholly or not at all.

    :param parent: descriptor of a directory of our own. A file there of this
        name after a dot, with ``.new`` at the end, is of a write that was
        interrupted.
    :param mode: its mode, whatever the process's umask.
    """
    new = f".{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    fd = os.open(new, flags | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with open(fd, "w", encoding="utf-8") as stream:
        os.fchmod(fd, mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
    os.fsync(parent)


def check(fd: int, path: str, mode: int) -> None:
    """Check that a directory is ours and allows no more than ``mode``.

    :raises PermissionError: naming the path and what is wrong.
    """
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        remedy = "run this as root" if os.geteuid() else f"chown root {path}"
        raise PermissionError(
            f"{path} belongs to user {status.st_uid}, "
            f"it has to belong to user {os.geteuid()}; {remedy}"
        )
    found = stat.S_IMODE(status.st_mode)
    if found & ~mode:
        raise PermissionError(
            f"{path} has mode {found:04o}, it may have {mode:04o} at most; "
            f"chmod {mode:04o} {path}"
        )


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


def sync_filesystem(fd: int) -> None:
    """Wait until all that was written to a filesystem is on its disk.

    See :manpage:`syncfs(2)`.

    :param fd: descriptor of a file in it, not ``O_PATH``.
    :raises OSError: EIO if something could not be written.
    """
    _syncfs(fd)
