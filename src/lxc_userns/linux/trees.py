# SPDX-License-Identifier: Apache-2.0
"""Mount objects by descriptor (:manpage:`open_tree(2)`)."""

from __future__ import annotations

import ctypes
import os

from lxc_userns.linux import libc

AT_EMPTY_PATH = 0x1000
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

# glibc has wrappers since 2.36 only; the numbers are the same everywhere but
# on Alpha.
_SYS_OPEN_TREE = 428
_SYS_MOUNT_SETATTR = 442


class MountAttr(ctypes.Structure):
    """``struct mount_attr`` of :manpage:`mount_setattr(2)`."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_open_tree = libc.system_call(ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

_mount_setattr = libc.system_call(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.POINTER(MountAttr),
    ctypes.c_size_t,
)


def clone_mount(fd: int) -> int:
    """A detached copy of the mount below a directory, without its submounts.

    :param fd: descriptor of the directory, which becomes the copy's root.
    :returns: an ``O_PATH`` descriptor; closing it dissolves the copy.
    :raises OSError: ENOSYS before Linux 5.2, EPERM without CAP_SYS_ADMIN,
        EINVAL if the mount must not be copied.
    """
    return _open_tree(
        _SYS_OPEN_TREE,
        fd,
        b"",
        AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC,
    )


def set_noatime(fd: int) -> None:
    """Let reading on a mount leave access times alone.

    :param fd: descriptor of the mount's root.
    :raises OSError: ENOSYS before Linux 5.12, EPERM without CAP_SYS_ADMIN.
    """
    attr = MountAttr(attr_set=MOUNT_ATTR_NOATIME, attr_clr=MOUNT_ATTR__ATIME)
    _mount_setattr(
        _SYS_MOUNT_SETATTR,
        fd,
        b"",
        AT_EMPTY_PATH,
        ctypes.byref(attr),
        ctypes.sizeof(attr),
    )
