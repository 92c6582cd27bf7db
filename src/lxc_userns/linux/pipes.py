# SPDX-License-Identifier: Apache-2.0
"""Pipes that hold much, and copies of what is in them (:manpage:`pipe(7)`)."""

from __future__ import annotations

import ctypes
import fcntl
import os
from contextlib import suppress

from lxc_userns.linux import libc

#: What a wide pipe holds, in bytes: the most that an ordinary user may have.
SIZE = 1 << 20

_tee = libc.function(
    "tee",
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_size_t,
    ctypes.c_uint,
    restype=ctypes.c_ssize_t,
)


def make_wide() -> tuple[int, int]:
    """Return a pipe that holds :data:`SIZE` bytes, if the host allows.

    :returns: descriptors of its reading and its writing end.
    """
    ends = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):  # The user's pipes hold too much already.
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, SIZE)
    return ends


def tee(source: int, sink: int) -> int:
    """Copy what is in a pipe to another one, and leave it where it is.

    It waits until there is something to copy, and room for it.

    :param source: reading end of a pipe.
    :param sink: writing end of the other.
    :returns: number of bytes, 0 once no one writes to the source.
    :raises BrokenPipeError: if no one reads from the sink.
    """
    return _tee(source, sink, SIZE, 0)
