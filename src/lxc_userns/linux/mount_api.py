# SPDX-License-Identifier: Apache-2.0
"""Mount objects by descriptor (:manpage:`open_tree(2)`)."""

from __future__ import annotations

import ctypes
import os

from lxc_userns.linux import libc

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_IDMAP = 0x100000
MS_PRIVATE = 1 << 18
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

# glibc has wrappers since 2.36 only; the numbers are the same everywhere but
# on Alpha.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
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

_move_mount = libc.system_call(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)


def clone_mount(fd: int) -> int:
    """Return a detached copy of the mount below a file, without its submounts.

    :param fd: descriptor of the file or directory, which becomes the copy's
        root.
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


def set_attributes(fd: int, attributes: int) -> None:
    """Add ``MOUNT_ATTR_*`` attributes to a detached mount of one's own.

    Nothing propagates to it or from it any longer. A copy would otherwise be
    a peer of the mount that it is a copy of: what is mounted below that one
    later would turn up here, with other owners and without ``nodev``
    (:manpage:`mount_namespaces(7)`).

    :param fd: descriptor of the mount's root.
    :raises OSError: ENOSYS before Linux 5.12, EPERM without CAP_SYS_ADMIN.
    """
    clear = MOUNT_ATTR__ATIME if attributes & MOUNT_ATTR__ATIME else 0
    attr = MountAttr(
        attr_set=attributes, attr_clr=clear, propagation=MS_PRIVATE
    )
    _set(fd, attr)


def set_attributes_of_all(attributes: int) -> None:
    """Add ``MOUNT_ATTR_*`` attributes to every mount of this process's.

    They are cut off from those of other mount namespaces, with which the
    process therefore must not share its own.

    :raises OSError: ENOSYS before Linux 5.12, EPERM without CAP_SYS_ADMIN,
        EINVAL if the process's root directory is no mount point. Nothing has
        changed then.
    """
    attr = MountAttr(attr_set=attributes, propagation=MS_PRIVATE)
    size = ctypes.sizeof(attr)
    _mount_setattr(
        _SYS_MOUNT_SETATTR,
        AT_FDCWD,
        b"/",
        AT_RECURSIVE,
        ctypes.byref(attr),
        size,
    )


def clear_attributes(path: str, attributes: int) -> None:
    """Take ``MOUNT_ATTR_*`` attributes from one mount of this process's.

    :param path: its mount point.
    :raises OSError: as :func:`set_attributes_of_all`.
    """
    attr = MountAttr(attr_clr=attributes)
    size = ctypes.sizeof(attr)
    path_bytes = os.fsencode(path)
    _mount_setattr(
        _SYS_MOUNT_SETATTR, AT_FDCWD, path_bytes, 0, ctypes.byref(attr), size
    )


def set_id_maps(fd: int, user_namespace: int) -> None:
    """Show the files of a mount with the owners that a user namespace gives.

    :param fd: descriptor of the root of a detached mount.
    :param user_namespace: descriptor of a user namespace with the ID maps;
        not that of this process.
    :raises OSError: ENOSYS before Linux 5.12; EINVAL if the filesystem's
        driver does not support it, or the mount is not detached; EPERM if the
        mount has ID maps already, or the filesystem is not the caller's;
        EBUSY if somebody has a file open for writing on the mount.
    """
    attr = MountAttr(attr_set=MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
    _set(fd, attr)


def attach(fd: int, target: int) -> None:
    """Mount a detached mount on a file or directory.

    :param fd: descriptor of the mount's root.
    :param target: descriptor of what it covers: of a file for a file, of a
        directory for a directory.
    :raises OSError: ENOSYS before Linux 5.2, ENOTDIR or EINVAL if the kinds
        differ.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _move_mount(_SYS_MOVE_MOUNT, fd, b"", target, b"", flags)


def _set(fd: int, attr: MountAttr) -> None:
    size = ctypes.sizeof(attr)
    _mount_setattr(
        _SYS_MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, ctypes.byref(attr), size
    )
