# SPDX-License-Identifier: Apache-2.0
"""Attributes of the calling process (:manpage:`prctl(2)`)."""

from __future__ import annotations

import ctypes

from lxc_userns.linux import libc

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

_prctl = libc.function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)


def set_parent_death_signal(number: int) -> None:
    """Get a signal when the thread that made this process ends.

    A change of user or group IDs forgets it.

    :param number: the signal.
    """
    _prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def set_no_new_privileges() -> None:
    """Let no program that is executed from now on grant privileges."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
