# SPDX-License-Identifier: Apache-2.0
"""Capability sets of the calling thread (:manpage:`capabilities(7)`)."""

from __future__ import annotations

import ctypes
import errno

from lxc_userns.linux import libc

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_VERSION_3 = 0x20080522
#: Bits of one of the two words of each set.
_WORD = 32

_prctl = libc.function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)


class cap_user_header(ctypes.Structure):
    """The thread that is meant: 0 for the caller."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class cap_user_data(ctypes.Structure):
    """One word of each set."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_capget = libc.function("capget", ctypes.c_void_p, ctypes.c_void_p)
_capset = libc.function("capset", ctypes.c_void_p, ctypes.c_void_p)


def drop_from_bounding_set(kept: int) -> None:
    """Let no program that is executed get other capabilities than these.

    :param kept: capabilities, as bits.
    :raises OSError: EPERM without CAP_SETPCAP.
    """
    for number in range(2 * _WORD):
        try:
            is_there = _prctl(_PR_CAPBSET_READ, number, 0, 0, 0)
        except OSError as err:
            if err.errno != errno.EINVAL:
                raise
            return  # The kernel knows no more.
        if is_there and not kept >> number & 1:
            _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def limit(kept: int) -> None:
    """Give up all other capabilities, and leave none to be inherited.

    :param kept: capabilities, as bits; none is gained.
    """
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = cap_user_header(_VERSION_3, 0)
    words = (cap_user_data * 2)()
    _capget(ctypes.byref(header), ctypes.byref(words))
    for number, word in enumerate(words):
        word.permitted &= kept >> number * _WORD
        word.effective = word.permitted
        word.inheritable = 0
    _capset(ctypes.byref(header), ctypes.byref(words))
