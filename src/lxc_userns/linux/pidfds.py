# SPDX-License-Identifier: Apache-2.0
"""Processes by descriptors of them (:manpage:`pidfd_open(2)`)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from lxc_userns.linux import libc

_GETFD = 438  # The same on every architecture (syscalls(2)).
_getfd = libc.system_call(ctypes.c_int, ctypes.c_int, ctypes.c_uint)

# linux/pidfd.h: PIDFD_GET_INFO is _IOWR(0xFF, 11, struct pidfd_info), whose
# first version has 64 bytes.
_SIZE, _EXIT = 64, 1 << 3
_GET_INFO = 3 << 30 | _SIZE << 16 | 0xFF << 8 | 11
_EXIT_CODE = _SIZE - 4
_TIOCGPTPEER = 0x5441
_UNKNOWN = {errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ESRCH}


def take_file(pidfd: int, number: int) -> int:
    """Duplicate a descriptor of another process (:manpage:`pidfd_getfd(2)`).

    :param number: the descriptor in that process.
    :raises OSError: if there is none, or the caller may not trace it.
    """
    return _getfd(_GETFD, pidfd, number, 0)


def exit_status(pidfd: int) -> int | None:
    """Return the wait status of a process that was waited for by its parent.

    :returns: None if it was not yet, or the kernel does not tell (before
        Linux 6.15).
    """
    info = bytearray(struct.pack("=Q", _EXIT).ljust(_SIZE, b"\0"))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError as err:
        if err.errno not in _UNKNOWN:
            raise
        return None
    (mask,) = struct.unpack_from("=Q", info)
    if not mask & _EXIT:
        return None
    return int(struct.unpack_from("=i", info, _EXIT_CODE)[0])


def open_terminal(master: int) -> int:
    """Open the other end of a pseudoterminal, without blocking.

    See :manpage:`TIOCGPTPEER(2const)`: no path is needed, so that it is
    certainly that one.

    :param master: descriptor of the master.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    return fcntl.ioctl(master, _TIOCGPTPEER, flags)
