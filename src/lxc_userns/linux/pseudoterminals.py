# SPDX-License-Identifier: Apache-2.0
"""Pseudoterminals of the calling process's files (:manpage:`pty(7)`)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import termios

from lxc_userns.linux import libc

_PTMX = "/dev/pts/ptmx"
_NUMBER = os.makedev(5, 2)
_TIOCGPTPEER = 0x5441
_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC

_unlockpt = libc.function("unlockpt", ctypes.c_int)


def open_pair(rows: int, columns: int) -> tuple[int, int]:
    """Make a pseudoterminal in the ``/dev/pts`` of the root directory.

    :param rows: its size, 0..65535, and
    :param columns: the same.
    :returns: descriptors of the master, which does not block, and of the
        other end.
    :raises OSError: ENODEV if something else is there; ENOSPC if there are
        as many as may be.
    """
    master = _open_master()
    try:
        _unlockpt(master)
        set_size(master, rows, columns)
        return master, _open_peer(master)
    except BaseException:
        os.close(master)
        raise


def set_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size in characters."""
    size = struct.pack("4H", rows, columns, 0, 0)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


def has_unread_input(master: int) -> bool:
    """Return whether what was typed has not all been read, ends of it too.

    :raises OSError: EIO if the terminal was hung up.
    """
    # FIONREAD counts no end of input, and the master can be polled for what
    # the other end prints alone.
    peer = _open_peer(master)
    try:
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(peer)


def _open_peer(master: int) -> int:
    # No path is needed, so that it is certainly that one.
    return fcntl.ioctl(master, _TIOCGPTPEER, _FLAGS)


def _open_master() -> int:
    # What is no such device is not opened at all, unless it has just taken
    # the place of one.
    if os.stat(_PTMX).st_rdev == _NUMBER:
        fd = os.open(_PTMX, _FLAGS | os.O_NONBLOCK)
        if os.fstat(fd).st_rdev == _NUMBER:
            return fd
        os.close(fd)
    raise OSError(errno.ENODEV, f"{_PTMX} is not the terminal multiplexer")
