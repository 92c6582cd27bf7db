# SPDX-License-Identifier: Apache-2.0
"""What a thread can have for itself (:manpage:`unshare(2)`)."""

from __future__ import annotations

import ctypes

from lxc_userns.linux import libc

CLONE_FS = 0x00000200

_unshare = libc.function("unshare", ctypes.c_int)


def unshare_working_directory() -> None:
    """Give the calling thread a working directory of its own.

    :raises OSError: if the kernel is out of memory.
    """
    _unshare(CLONE_FS)
