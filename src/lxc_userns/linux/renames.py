# SPDX-License-Identifier: Apache-2.0
"""Renames that replace nothing (:manpage:`rename(2)`, renameat2)."""

from __future__ import annotations

import ctypes
import os

from lxc_userns.linux import libc

RENAME_NOREPLACE = 1

_renameat2 = libc.function(
    "renameat2",
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)


def rename_new(parent: int, old: str, new: str) -> None:
    """Rename a file within its directory.

    :param parent: descriptor of the directory.
    :raises FileExistsError: if something has the new name.
    :raises OSError: EINVAL if the filesystem cannot do that.
    """
    names = [os.fsencode(name) for name in (old, new)]
    _renameat2(parent, names[0], parent, names[1], RENAME_NOREPLACE)
