# SPDX-License-Identifier: Apache-2.0
"""A fork whose parent is the caller's parent (:manpage:`clone3(2)`)."""

from __future__ import annotations

import ctypes

from lxc_userns.linux import libc

_SYS_CLONE3 = 435  # On every architecture (syscalls(2)).
_CLONE_PIDFD = 0x1000
_CLONE_PARENT = 0x8000


class clone_args(ctypes.Structure):
    """Properties of the new process, as of Linux 5.3."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",  # None of its own: that of the caller.
            "stack",
            "stack_size",
            "tls",
        )
    )


_clone3 = libc.system_call(ctypes.POINTER(clone_args), ctypes.c_size_t)


def fork_sibling() -> int | None:
    """Fork, for a caller with one thread that is to end itself soon.

    The new process is in the PID namespace that the caller has entered, and
    is waited for by the caller's parent. Its interpreter is told nothing of
    the fork: it may set itself up and execute a program.

    :returns: pidfd of the new process, close-on-exec; None in that.
    :raises OSError: EAGAIN if a limit of processes is reached, ENOMEM if the
        first process of the PID namespace has ended.
    """
    pidfd = ctypes.c_int(-1)
    flags = _CLONE_PIDFD | _CLONE_PARENT
    args = clone_args(flags, ctypes.addressof(pidfd))
    child = _clone3(_SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args))
    return pidfd.value if child else None
