# SPDX-License-Identifier: Apache-2.0
"""Functions of the C library, each with a prototype of its own."""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False  # What is only for type checkers takes long to load.
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Item access gives a fresh function object each time, so that no wrapper can
# change the prototype under another thread's feet.
_LIBC = ctypes.CDLL(None, use_errno=True)


def function(
    name: str,
    *argtypes: Any,
    restype: Any = ctypes.c_int,
    library: str | None = None,
) -> Callable[..., int]:
    """Return a function that returns a number, or -1 and an errno.

    :param name: its name in the C library.
    :param argtypes: the ctypes of its arguments.
    :param restype: the ctype of its result. It has to be right: an int of -1
        read as a long is 4294967295.
    :param library: another library that has it, which is loaded for this.
    :returns: a callable that raises OSError where the C function returns -1;
        it raises the audit event ``lxc_userns.libc``, with the name and a
        tuple of the arguments, before it calls that.
    """
    of = ctypes.CDLL(library, use_errno=True) if library else _LIBC
    raw = of[name]
    raw.argtypes = argtypes
    raw.restype = restype

    def call(*arguments: object) -> int:
        """Call it, and raise OSError where it fails."""
        # As Python has it for its own functions.
        sys.audit("lxc_userns.libc", name, arguments)
        result: int = raw(*arguments)
        if result == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    return call


def system_call(*argtypes: Any) -> Callable[..., int]:
    """:manpage:`syscall(2)`, for what the C library has no wrapper for.

    :param argtypes: the ctypes of the arguments after the number.
    """
    return function("syscall", ctypes.c_long, *argtypes, restype=ctypes.c_long)
