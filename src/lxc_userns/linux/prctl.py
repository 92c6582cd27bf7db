# SPDX-License-Identifier: Apache-2.0
"""Attributes of the calling process (:manpage:`prctl(2)`)."""

from __future__ import annotations

import ctypes

from lxc_userns.linux import libc

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

_prctl = libc.function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)


def set_parent_death_signal(number: int) -> None:
    """Get a signal when the thread that made this process ends.

    A change of user or group IDs forgets it.

    :param number: the signal.
    """
    _prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def forbid_tracing() -> None:
    """Keep a user namespace's root from tracing this process.

    Nor can that see by ``/proc`` what it has open, its root or what it
    executes; see :manpage:`ptrace(2)`, "Ptrace access mode checking". Who is
    root of the user namespace that the process was executed in still can. A
    change of IDs or capabilities, or of the user namespace, may allow it
    again, as sysctl ``fs.suid_dumpable`` has it.
    """
    _prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def set_no_new_privileges() -> None:
    """Let no program that is executed from now on grant privileges."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
