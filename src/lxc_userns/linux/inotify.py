# SPDX-License-Identifier: Apache-2.0
"""Events of files that are opened and closed (:manpage:`inotify(7)`)."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator

from lxc_userns.linux import libc, polling
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
        self.fd = _watch(path)

    def update(self) -> None:
        """Count what has been opened and closed since."""
        for mask in _events(self.fd):
            self.count += bool(mask & _OPEN) - bool(mask & _CLOSE)
        self.count = max(0, self.count)

    def close(self) -> None:
        """Watch no longer."""
        os.close(self.fd)


class Listings:
    """Whether a directory is listed, by whoever it may be.

    :param path: the directory.
    :raises OSError: if it cannot be watched.
    """

    def __init__(self, path: str) -> None:
        self._is_open = False
        self._fd = _watch(path)

    def wait(self, seconds: float) -> bool:
        """Wait until one who has begun since this did is at its end.

        :param seconds: how long at most.
        :returns: whether one is.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            polling.wait(self._fd, timeout=left)
            for mask in _events(self._fd):
                # Who began before has maybe not seen what is new in it.
                if mask & _CLOSE and self._is_open:
                    return True
                self._is_open = self._is_open or bool(mask & _OPEN)
        return False

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._fd)


def _watch(path: str) -> int:
    fd: int = _init(os.O_NONBLOCK | os.O_CLOEXEC)
    with closed_on_error(fd):
        _add_watch(fd, os.fsencode(path), _OPEN | _CLOSE)
    return fd


def _events(fd: int) -> Iterator[int]:
    """Yield what has happened to a file itself, and not to one in it."""
    try:
        data = os.read(fd, 4096)
    except BlockingIOError:
        return
    while data:
        _, mask, _, length = _EVENT.unpack_from(data)
        if not length:
            yield mask
        data = data[_EVENT.size + length :]
