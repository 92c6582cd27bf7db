# SPDX-License-Identifier: Apache-2.0
"""Namespaces of the calling process and thread (:manpage:`namespaces(7)`)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading

from lxc_userns.linux import libc
from lxc_userns.linux.fd import owned

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
#: Kinds by the kernel's name of them in ``/proc``.
KINDS = {
    "time": 0x00000080,
    "mnt": CLONE_NEWNS,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
}

# _IO(NSIO, 1) of linux/nsfs.h.
_NS_GET_USERNS = 0xB701

_unshare = libc.function("unshare", ctypes.c_int)
_setns = libc.function("setns", ctypes.c_int, ctypes.c_int)


def unshare(kinds: int) -> None:
    """Enter new namespaces; a new PID namespace is for children only.

    :param kinds: ``CLONE_NEW*``, or several.
    :raises OSError: EPERM without CAP_SYS_ADMIN, ENOSPC if a limit of the
        host is reached.
    """
    _unshare(kinds)


def setns(fd: int, kind: int) -> None:
    """Be in a namespace, with all capabilities in it if it is one of users.

    :param fd: descriptor of the namespace; or a pidfd, for several of that
        process at once.
    :param kind: ``CLONE_NEW*``, or several.
    :raises OSError: EPERM without CAP_SYS_ADMIN in it; EINVAL if it is of
        another kind, or one of users and this process has threads.
    """
    _setns(fd, kind)


def owner(fd: int) -> tuple[int, int]:
    """Return the owner of a namespace (:manpage:`ioctl_ns(2)`).

    :param fd: descriptor of the namespace.
    :returns: identity of the owner: device and inode.
    :raises PermissionError: if the owner is no descendant of the caller's.
    """
    with owned(fcntl.ioctl(fd, _NS_GET_USERNS)) as found:
        status = os.fstat(found)
    return status.st_dev, status.st_ino


def unshare_working_directory() -> None:
    """Give the calling thread a root and working directory of its own.

    See :manpage:`unshare(2)`.

    :raises OSError: if the kernel is out of memory.
    """
    _unshare(CLONE_FS)


def has_native_threads() -> bool:
    """Return whether threads of this process are threads to the kernel.

    They are not where eventlet has replaced them: all that one of them does to
    itself it does to the process.
    """
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(threading.get_native_id())
    )
    thread.start()
    thread.join()
    return found != [threading.get_native_id()]
