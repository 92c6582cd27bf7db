# SPDX-License-Identifier: Apache-2.0
"""Paths of a container, followed on the host as the container would."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from lxc_userns.linux import libc
from lxc_userns.linux.fd import owned

_SYS_OPENAT2 = 437  # On every architecture but Alpha.
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10


class open_how(ctypes.Structure):
    """Arguments of :manpage:`openat2(2)`."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_openat2 = libc.system_call(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(open_how),
    ctypes.c_size_t,
)


def lookup(root: int, path: str) -> os.stat_result:
    """Return the status of a file, as if ``root`` were ``/``.

    Nothing is opened: no device, no pipe.

    :param root: descriptor of a directory.
    :param path: path in it, absolute or relative to it.
    :raises OSError: if there is no such file, or with ``ENOSYS`` before
        Linux 5.6.
    """
    with owned(_open(root, path, os.O_PATH)) as fd:
        return os.fstat(fd)


def open_regular(root: int, path: str) -> int:
    """Open a file for reading, as :func:`lookup` finds it, if it is regular.

    :raises OSError: EINVAL if it is something else, of which nothing was
        opened unless it has just taken the place of a file.
    """
    if stat.S_ISREG(lookup(root, path).st_mode):
        fd = _open(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file")


def open_directory(root: int, path: str) -> int:
    """Open a directory of the same mount for which no link is followed.

    :param root: descriptor of a directory.
    :param path: path in it, relative to it.
    :raises OSError: if it is not there, or something else; ELOOP for a link,
        EXDEV in another mount.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY
    return _open(root, path, flags, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)


def lookup_directory(root: int, path: str | bytes) -> int:
    """Open a directory for reading, with links followed as by :func:`lookup`.

    :returns: its descriptor, for the caller to close.
    :raises OSError: as :func:`lookup`, or ENOTDIR if it is none.
    """
    return _open(root, path, os.O_RDONLY | os.O_DIRECTORY)


def _open(root: int, path: str | bytes, flags: int, more: int = 0) -> int:
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | more
    how = open_how(flags | os.O_CLOEXEC, 0, resolve)
    size = ctypes.sizeof(how)
    return _openat2(_SYS_OPENAT2, root, os.fsencode(path), how, size)
