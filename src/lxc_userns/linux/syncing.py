# SPDX-License-Identifier: Apache-2.0
"""Synchronisation of written data with the disk (:manpage:`syncfs(2)`)."""

from __future__ import annotations

import ctypes

from lxc_userns.linux import libc

_syncfs = libc.function("syncfs", ctypes.c_int)


def sync_filesystem(fd: int) -> None:
    """Wait until all that was written to a filesystem is on its disk.

    :param fd: descriptor of a file in it, not ``O_PATH``.
    :raises OSError: EIO if something could not be written.
    """
    _syncfs(fd)
