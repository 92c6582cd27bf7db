# SPDX-License-Identifier: Apache-2.0
"""A root directory with the programs of the system, and nothing else."""

from __future__ import annotations

import ctypes
import os

from lxc_userns.linux import libc, mount_api
from lxc_userns.linux.fd import open_file, owned

#: Where programs and their libraries are (:manpage:`hier(7)`). Of a system
#: with a merged ``/usr`` all others are links into that.
_DIRECTORIES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ATTRIBUTES = mount_api.MOUNT_ATTR_NOSUID | mount_api.MOUNT_ATTR_NODEV
_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_MNT_DETACH = 0x2

# glibc has it, and no header names it.
_pivot_root = libc.function("pivot_root", ctypes.c_char_p, ctypes.c_char_p)
_umount2 = libc.function("umount2", ctypes.c_char_p, ctypes.c_int)


def enter() -> None:
    """Leave the root directory of this mount namespace for one of programs.

    What was open stays open. There is no ``/proc`` afterwards, and no way
    back: nothing of the old root directory is mounted any more.

    The mount namespace is this process's alone, and what happens in it is
    seen in no other.

    :raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    with owned(mount_api.mount("tmpfs", {"mode": "755"}, _ATTRIBUTES)) as root:
        # Before Linux 6.15 nothing can be mounted on what hangs nowhere.
        _attach(root, "/proc", None)
        for name in _DIRECTORIES:
            _add(root, name)
        os.fchdir(root)
        _pivot_root(b".", b".")
        # The old one is on top of the new one now (pivot_root(2), NOTES).
        _umount2(b".", _MNT_DETACH)
        os.chdir("/")


def _add(root: int, name: str) -> None:
    path = f"/{name}"
    if os.path.islink(path):
        os.symlink(os.readlink(path), name, dir_fd=root)
    elif os.path.isdir(path):
        os.mkdir(name, 0o755, dir_fd=root)
        with (
            open_file(path, _FLAGS) as source,
            owned(mount_api.clone_mount(source)) as copy,
        ):
            _attach(copy, name, root)


def _attach(mount: int, path: str, parent: int | None) -> None:
    with open_file(path, _FLAGS, dir_fd=parent) as place:
        mount_api.attach(mount, place)
