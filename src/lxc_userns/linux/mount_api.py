# SPDX-License-Identifier: Apache-2.0
"""Mounts by descriptor (:manpage:`open_tree(2)`, :manpage:`fsopen(2)`)."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from lxc_userns.linux import libc, namespaces
from lxc_userns.linux.fd import owned

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
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

# glibc has wrappers since 2.36 only; the numbers are the same everywhere but
# on Alpha.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
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

_fsopen = libc.system_call(ctypes.c_char_p, ctypes.c_uint)
_fsconfig = libc.system_call(
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_int,
)
_fsmount = libc.system_call(ctypes.c_int, ctypes.c_uint, ctypes.c_uint)

_LONGEST_MESSAGE = 8192


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


def mount(
    fs_type: str, options: Mapping[str, str | None], attributes: int
) -> int:
    """Mount a filesystem nowhere: on no directory.

    :param fs_type: the filesystem's type, as in ``/proc/filesystems``.
    :param options: its parameters; None for one that takes no value. What
        one names by ``/proc/self/fd/N`` is looked up once, now.
    :param attributes: ``MOUNT_ATTR_*`` of the mount.
    :returns: an ``O_PATH`` descriptor of its root; closing it unmounts it,
        unless it was attached.
    :raises OSError: ENOSYS before Linux 5.2, ENODEV if the kernel has no such
        filesystem; its text is what the filesystem says is wrong, if it says
        anything.
    """
    with owned(
        _fsopen(_SYS_FSOPEN, fs_type.encode(), FSOPEN_CLOEXEC)
    ) as context:
        for key, value in options.items():
            _configure(context, key, value)
        _set_parameter(context, FSCONFIG_CMD_CREATE, None, None)
        return _fsmount(_SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)


def mount_device(
    fs_type: str,
    path: str,
    device: int,
    options: Mapping[str, str | None],
    attributes: int,
) -> int:
    """Mount the filesystem of a block device, out of reach of all others.

    btrfs opens further devices by the paths under which the kernel came to
    know them, whatever is in a superblock. They are looked up from the root
    directory of the thread that mounts, which has this device alone.

    :param path: absolute path by which the device is to be known.
    :param device: its number, as ``st_rdev`` has it.
    :returns: as :func:`mount`.
    :raises OSError: as :func:`mount`; EPERM without CAP_MKNOD and
        CAP_SYS_CHROOT.
    """
    source = {"source": path, **options}
    if not namespaces.has_native_threads():
        # A root directory of its own would be that of the whole process.
        return mount(fs_type, source, attributes)

    # Loaded late: hardly any command needs it.
    from concurrent.futures import ThreadPoolExecutor

    def mount_alone() -> int:
        namespaces.unshare_working_directory()
        with owned(mount("tmpfs", {"mode": "700"}, 0)) as root:
            _enter(root, path, device)
            return mount(fs_type, source, attributes)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(mount_alone).result()


def _enter(root: int, path: str, device: int) -> None:
    """Enter a root directory with nothing in it but a block device."""
    os.fchdir(root)
    os.chroot(".")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.mknod(path, stat.S_IFBLK | 0o600, device)


def _configure(context: int, key: str, value: str | None) -> None:
    if value is None:
        _set_parameter(context, FSCONFIG_SET_FLAG, key.encode(), None)
    else:
        text = os.fsencode(value)
        _set_parameter(context, FSCONFIG_SET_STRING, key.encode(), text)


def _set_parameter(
    context: int, command: int, key: bytes | None, value: bytes | None
) -> None:
    try:
        _fsconfig(_SYS_FSCONFIG, context, command, key, value, 0)
    except OSError as err:
        said = _read_messages(context)
        raise OSError(err.errno, said or err.strerror) from None


def _read_messages(context: int) -> str:
    """Read the error messages of the filesystem."""
    messages = []
    with suppress(OSError):  # ENODATA: nothing more.
        while True:
            message = os.read(context, _LONGEST_MESSAGE)
            kind, _, text = message.decode(errors="replace").partition(" ")
            if kind == "e":
                messages.append(text.strip())
    return "; ".join(messages)
