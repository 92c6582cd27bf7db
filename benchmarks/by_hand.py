# SPDX-License-Identifier: Apache-2.0
"""An idmapped mount by hand: the system calls, and nothing else.

No path is checked and no error explained: the least that one can cost from
Python.
"""

from __future__ import annotations

import ctypes  # noqa: TID251 - to be compared with what the package does
import os

_CLONE_NEWUSER = 0x10000000
_AT_EMPTY_PATH, _AT_FDCWD = 0x1000, -100
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_NODEV, _MOUNT_ATTR_IDMAP = 0x4, 0x100000
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, entry: tuple[int, int, int]) -> None:
    """Mount a directory idmapped.

    :param entry: of the ID maps, both: guest, host, count.
    :raises OSError: if the kernel refuses.
    """
    path = source.encode()
    tree = _call(_SYS_OPEN_TREE, _AT_FDCWD, path, _OPEN_TREE_CLONE)
    try:
        _idmap(tree, entry)
        to = (_AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
        _call(_SYS_MOVE_MOUNT, tree, b"", *to)
    finally:
        os.close(tree)


def _idmap(tree: int, entry: tuple[int, int, int]) -> None:
    namespace = _user_namespace(entry)
    try:
        attributes = _MOUNT_ATTR_NODEV | _MOUNT_ATTR_IDMAP
        attr = (ctypes.c_uint64 * 4)(attributes, 0, 0, namespace)
        size = ctypes.sizeof(attr)
        _call(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attr, size)
    finally:
        os.close(namespace)


def _user_namespace(entry: tuple[int, int, int]) -> int:
    is_ready, ready = os.pipe()
    done, is_done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(is_done)
            if _libc.unshare(_CLONE_NEWUSER) == 0:
                os.write(ready, b"\n")
            os.read(done, 1)
        finally:
            os._exit(0)
    os.close(ready)
    os.close(done)
    os.read(is_ready, 1)
    try:
        for name in ("uid_map", "gid_map"):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
            os.write(fd, " ".join(map(str, entry)).encode())
            os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        os.close(is_ready)
        os.close(is_done)
        os.waitpid(pid, 0)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
