# SPDX-License-Identifier: Apache-2.0
"""Locks of threads and processes, each on a file that is gone afterwards.

A lock belongs to the open file (:manpage:`flock(2)`): two threads that open
it exclude each other as two processes do, and it ends with the last process
that has it open, however that ends. The file is in a directory that only
root can look into, so that no one else can hold the lock.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from lxc_userns.exceptions import LockTimeoutError
from lxc_userns.linux import directory, namespaces
from lxc_userns.linux.fd import closed_on_error, owned

#: Where locks of files are that have no place of their own for them. No
#: option: whoever works on one tree by two configurations, or by none, is to
#: find the same.
PLACE = "/run/lxc-userns-locks"

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
#: Seconds between two tries. A blocking flock() would stop all green threads
#: of a process that has eventlet, the one that holds the lock among them.
_RETRY = 0.01


class _Thread(threading.local):
    """Locks of a thread, and how long it may still wait for more."""

    names: tuple[str, ...] = ()
    deadline: float | None = None


_THREAD = _Thread()


def _make(place: int, name: str) -> int:
    return os.open(name, _FLAGS, 0o600, dir_fd=place)


@contextmanager
def held(
    place: int,
    name: str,
    *,
    shared: bool = False,
    limit: float | None = None,
    is_for_hooks: bool = True,
) -> Iterator[int]:
    """Hold a lock; not reentrant.

    :param place: descriptor of the directory of the lock's file, which has
        to stay open meanwhile.
    :param name: name of the file.
    :param shared: whether others may hold it shared at the same time.
    :param limit: seconds to wait for others, None for as long as it takes.
    :param is_for_hooks: whether a hook of libvirt may wait for it, so that
        libvirtd must not be asked by who holds it.
    :returns: descriptor of the file. A process that inherits it holds the
        lock too.
    :raises TimeoutError: if others hold it for longer.
    :raises OSError: if the file cannot be made.
    """
    with owned(acquire(place, name, shared=shared, limit=limit)) as fd:
        try:
            with noted(name) if is_for_hooks else nullcontext():
                yield fd
        finally:
            _remove(place, name, fd)


@contextmanager
def held_for(
    kind: str, fd: int, *, shared: bool = False, limit: float | None = None
) -> Iterator[int]:
    """Hold the lock of a file or directory, by whatever path it was opened.

    A lock on itself could be held by all who can open it.

    :param kind: what the lock is for.
    :param fd: descriptor of the file or directory.
    :param shared: as for :func:`held`; so are the rest.
    :raises PermissionError: if others can get at the locks.
    """
    status = os.fstat(fd)
    name = f"{kind}-{status.st_dev}-{status.st_ino}"
    with (
        directory.open_private(PLACE, 0o700) as place,
        held(place, name, shared=shared, limit=limit) as lock,
    ):
        yield lock


def acquire(
    place: int,
    name: str,
    *,
    shared: bool = False,
    limit: float | None = None,
    make: Callable[[int, str], int | None] = _make,
) -> int:
    """Make a file or directory, and hold its lock.

    :param place: as for :func:`held`; so are the rest.
    :param make: makes it, unless it is there, and opens it; returns None if
        it was removed in between.
    :returns: descriptor of it.
    :raises TimeoutError: if others hold the lock for longer.
    """
    deadline = _deadline(limit)
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        if (fd := make(place, name)) is not None:
            with closed_on_error(fd):
                # The last who held it has removed the file: then the lock on
                # it keeps no other out who comes later.
                if try_lock(fd, operation) and _is_named(place, name, fd):
                    return fd
            os.close(fd)
        _pause(deadline, name)


def wait(fd: int, name: str) -> None:
    """Lock a file or directory of our own, in the order of those who wait.

    With a time limit the order is a matter of luck, and so it is for green
    threads.

    :param fd: descriptor of it; the lock ends with its last copy.
    :param name: name of the lock, for the error.
    :raises TimeoutError: if others hold the lock for longer than
        :func:`time_limit` allows.
    """
    deadline = _deadline(None)
    if deadline is None and namespaces.has_native_threads():
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    while not try_lock(fd):
        _pause(deadline, name)


def sweep(place: int) -> None:
    """Remove the files of locks that no one holds.

    Who is killed leaves one, which goes with the next who takes that lock; for
    the lock of what is gone, no one does.

    :param place: descriptor of the directory of the files.
    """
    for name in os.listdir(place):
        # It may be gone by now, or of somebody else.
        with suppress(OSError):
            fd = os.open(name, _FLAGS & ~os.O_CREAT, dir_fd=place)
            with owned(fd):
                _remove(place, name, fd)


def sweep_place() -> None:
    """Remove the files of locks of files that no one holds.

    :raises PermissionError: if others can get at the locks.
    """
    with (
        suppress(FileNotFoundError),
        directory.open_private(PLACE, 0o700, create=False) as place,
    ):
        sweep(place)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise LockTimeoutError if others hold a lock for too long.

    :param name: name of the lock.
    """
    start = time.monotonic()
    try:
        yield
    except TimeoutError:
        waited = time.monotonic() - start
        raise LockTimeoutError(name, waited) from None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit how long this thread waits for locks in the body, all together.

    :param seconds: 0 or more.
    """
    before = _THREAD.deadline
    _THREAD.deadline = _deadline(seconds)
    try:
        yield
    finally:
        _THREAD.deadline = before


def time_left(limit: float) -> float:
    """Return for how long this thread may wait for a lock.

    :param limit: seconds that it would wait if it was free to.
    """
    deadline = _THREAD.deadline
    if deadline is None:
        return limit
    return max(0.0, min(limit, deadline - time.monotonic()))


@contextmanager
def noted(name: str) -> Iterator[None]:
    """Note that this thread holds a lock that a hook may wait for."""
    before = _THREAD.names
    _THREAD.names = (*before, name)
    try:
        yield
    finally:
        _THREAD.names = before


def check_none_held(operation: str) -> None:
    """Check that no hook of libvirt waits for this thread.

    libvirtd keeps a domain locked while its hook waits, and to ask it for
    that domain would never end.

    :param operation: what libvirtd is about to be asked for.
    :raises RuntimeError: if this thread holds a lock.
    """
    if _THREAD.names:
        raise RuntimeError(
            f"libvirtd must not be asked to {operation} under the locks "
            f"{', '.join(_THREAD.names)}: its hook may wait for them"
        )


def _deadline(limit: float | None) -> float | None:
    limits = [] if limit is None else [time.monotonic() + limit]
    if _THREAD.deadline is not None:
        limits.append(_THREAD.deadline)
    return min(limits, default=None)


def _pause(deadline: float | None, name: str) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError(f"another holds the lock {name}")
    time.sleep(_RETRY)


def _remove(place: int, name: str, fd: int) -> None:
    """Remove the file, unless others hold the lock too."""
    # To change a shared lock is to give it up and ask again: another may be
    # faster, and may have removed the file.
    if try_lock(fd) and _is_named(place, name, fd):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place)


def try_lock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Lock a file or directory, unless others hold its lock.

    :param fd: descriptor of it; the lock ends with its last copy.
    :param operation: ``LOCK_EX``, or ``LOCK_SH``.
    :returns: whether it is locked.
    """
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(place: int, name: str, fd: int) -> bool:
    """Return whether a file has this name now."""
    try:
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))
