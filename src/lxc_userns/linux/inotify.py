# SPDX-License-Identifier: Apache-2.0
"""Events of a file that is opened and closed (:manpage:`inotify(7)`)."""

from __future__ import annotations

import ctypes
import os
import struct

from lxc_userns.linux import libc
from lxc_userns.linux.fd import closed_on_error

_init = libc.function("inotify_init1", ctypes.c_int)
_add_watch = libc.function(
    "inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32
)
_OPEN, _CLOSE = 0x20, 0x18
_EVENT = struct.Struct("iIII")


class Openings:
    """Count of the openings of a file, beyond those when this began.

    :param path: the file.
    :raises OSError: if it cannot be watched.
    """

    def __init__(self, path: str) -> None:
        self.count = 0
        self.fd = _init(os.O_NONBLOCK | os.O_CLOEXEC)
        with closed_on_error(self.fd):
            _add_watch(self.fd, os.fsencode(path), _OPEN | _CLOSE)

    def update(self) -> None:
        """Count what has been opened and closed since."""
        try:
            data = os.read(self.fd, 4096)
        except BlockingIOError:
            return
        while data:
            _, mask, _, length = _EVENT.unpack_from(data)
            self.count += bool(mask & _OPEN) - bool(mask & _CLOSE)
            data = data[_EVENT.size + length :]
        self.count = max(0, self.count)

    def close(self) -> None:
        """Watch no longer."""
        os.close(self.fd)
