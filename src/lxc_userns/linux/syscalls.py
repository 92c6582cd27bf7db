# SPDX-License-Identifier: Apache-2.0
"""System calls that this kernel has: tried in a way that does nothing."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable

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


def missing_syscalls(
    call: Callable[..., object] | None = None,
) -> list[str]:
    """Return the system calls of ours that a kernel may lack.

    :param call: makes one, by its number and arguments; None for the kernel.
    :returns: the names of those that this one does not have.
    """
    make = call or _try
    return [name for name, n in _NUMBERS.items() if _is_missing(n, make)]


def _is_missing(number: int, call: Callable[..., object]) -> bool:
    try:
        call(number, *_NOTHING)
    except OSError as err:
        return err.errno == errno.ENOSYS
    return False
