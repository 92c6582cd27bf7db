# SPDX-License-Identifier: Apache-2.0
"""Which system calls this kernel has: tried in a way that does nothing."""

from __future__ import annotations

import ctypes
import errno

from lxc_userns.linux import libc

_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "openat2": 437,
    "mount_setattr": 442,
}
# No file has that number, no path is at that address, and no structure has
# that size: each of them refuses, whoever asks. A kernel that does not know
# it says ENOSYS.
_NOTHING = (-1, 0, 0, 0, 0)

_try = libc.system_call(*[ctypes.c_long] * len(_NOTHING))


def missing_syscalls() -> list[str]:
    """System calls of ours that a kernel may be too old for.

    :returns: the names of those that this one does not have.
    """
    return [name for name, number in _NUMBERS.items() if _is_missing(number)]


def _is_missing(number: int) -> bool:
    try:
        _try(number, *_NOTHING)
    except OSError as err:
        return err.errno == errno.ENOSYS
    return False
