# SPDX-License-Identifier: Apache-2.0
"""Lines of a log that grows, and may be replaced by another of its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

_CHUNK = 64 << 10
#: Bytes of a line; a longer one is several.
_LONGEST = 4096


class Tail:
    """The lines of a log, and those that are written to it later.

    :param open_log: opens what has the name of the log now; None if nothing
        has.
    :param longest: how many bytes before its present end to begin.
    """

    def __init__(
        self, open_log: Callable[[], int | None], longest: int | None = None
    ) -> None:
        self._open = open_log
        self._fd = open_log()
        self._rest = b""
        if self._fd is not None and longest is not None:
            size = os.fstat(self._fd).st_size
            os.lseek(self._fd, max(0, size - longest), os.SEEK_SET)

    def read(self) -> Iterator[bytes]:
        """Yield the lines since the last call, without what ends them."""
        yield from self._read()
        new = self._open()
        if new is None:
            return
        if self._fd is not None and os.path.samestat(
            os.fstat(self._fd), os.fstat(new)
        ):
            os.close(new)
            return
        # It has been written to until it was replaced.
        yield from self._read()
        yield from self.take_rest()
        self.close()
        self._fd = new
        yield from self._read()

    def take_rest(self) -> Iterator[bytes]:
        """Yield the last line, if it has not ended."""
        if self._rest:
            yield self._rest
        self._rest = b""

    def close(self) -> None:
        """Read no more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _read(self) -> Iterator[bytes]:
        if self._fd is None:
            return
        self._follow_truncation(self._fd)
        while data := os.read(self._fd, _CHUNK):
            *lines, rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield from _cut(line)
            *full, self._rest = _cut(rest) if rest else [b""]
            yield from full

    def _follow_truncation(self, fd: int) -> None:
        """Begin anew where logrotate has emptied the file (copytruncate)."""
        if os.fstat(fd).st_size < os.lseek(fd, 0, os.SEEK_CUR):
            os.lseek(fd, 0, os.SEEK_SET)


def _cut(line: bytes) -> list[bytes]:
    line = line.removesuffix(b"\r")
    starts = range(0, len(line) or 1, _LONGEST)
    return [line[start : start + _LONGEST] for start in starts]
