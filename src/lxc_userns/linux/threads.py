# SPDX-License-Identifier: Apache-2.0
"""Attributes of one thread alone (:manpage:`unshare(2)`)."""

from __future__ import annotations

import ctypes
import threading

from lxc_userns.linux import libc

CLONE_FS = 0x00000200

_unshare = libc.function("unshare", ctypes.c_int)


def unshare_working_directory() -> None:
    """Give the calling thread a working directory of its own.

    :raises OSError: if the kernel is out of memory.
    """
    _unshare(CLONE_FS)


def has_native_threads() -> bool:
    """Return whether threads of this process are threads to the kernel.

    They are not where eventlet has replaced them: all that one of them does to
    itself it does to the process.
    """
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(threading.get_native_id())
    )
    thread.start()
    thread.join()
    return found != [threading.get_native_id()]
