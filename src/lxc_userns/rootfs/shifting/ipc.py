# SPDX-License-Identifier: Apache-2.0
"""Messages between a worker pool and its workers.

Three things are shared by descriptors: a *queue* of directories to walk (a
pipe of packets, from which whoever is idle reads), a pipe of *reports* to the
pool, and *shared flags*, a file in memory that says whether all is called off
and whose byte ranges are locked, one for each hard-linked inode.
"""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import struct

from lxc_userns.linux import polling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Most workers of a pool.
MOST_WORKERS = 256
#: In place of an inode number, to lock the notes on the root directory.
JOURNAL = 0
#: Kinds of report; the number is one of inodes for WALKED, else 0.
GIVEN, DONE, WALKED = 1, 2, 3

_REPORT = struct.Struct("<BQ")
_LENGTH = struct.Struct("<Q")
#: Most bytes that are read from a process with fewer rights.
_MOST_PLAIN = 16 << 20
#: Key of a JSON object that stands for bytes.
_BYTES = "bytes"
_DIRECTORY, _QUIT = b"d", b"q"
_PACKET = 4096


def send(fd: int, value: Any) -> None:
    """Write a value of plain types whole.

    Marshal, for both ends are the same interpreter and a worker that loads
    nothing more starts in half the time.
    """
    _write(fd, marshal.dumps(value))


def receive(fd: int) -> Any:
    """Read a value written by :func:`send`.

    :raises EOFError: if the other end went away.
    """
    (size,) = _LENGTH.unpack(_read(fd, _LENGTH.size))
    return marshal.loads(_read(fd, size))  # noqa: S302 - our own processes


def send_plain(fd: int, value: dict[str, Any]) -> None:
    """Write JSON values and bytes whole, for :func:`receive_plain`."""
    # Loaded late: a worker does without.
    import json

    _write(fd, json.dumps(value, default=_pack_bytes).encode())


def receive_plain(fd: int) -> dict[str, Any]:
    """Read what a process with fewer rights than this one wrote.

    Marshal would trust it: made-up bytes can crash the interpreter.

    :raises EOFError: if the other end went away.
    :raises ValueError: if it wrote what :func:`send_plain` does not.
    """
    import json

    (size,) = _LENGTH.unpack(_read(fd, _LENGTH.size))
    if size > _MOST_PLAIN:
        raise ValueError(f"{size} bytes are too many")
    data = _read(fd, size)
    try:
        value = json.loads(data, object_hook=_unpack_bytes)
    except RecursionError as err:
        raise ValueError(str(err)) from None
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} in place of a dictionary")
    return value


def _pack_bytes(value: bytes) -> dict[str, str]:
    return {_BYTES: value.decode("latin-1")}


def _unpack_bytes(value: dict[str, Any]) -> dict[str, Any] | bytes:
    text = value.get(_BYTES)
    return text.encode("latin-1") if isinstance(text, str) else value


def _write(fd: int, data: bytes) -> None:
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        view = view[polling.write(fd, view) :]


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Queue:
    """Directories that wait for a worker.

    Each entry is the path of a directory below the root, and names of
    subdirectories to walk in it; without any, all of it is to be walked.

    :param read: reading end, non-blocking, shared by all workers.
    :param write: writing end, non-blocking.
    """

    def __init__(self, read: int, write: int) -> None:
        self.fds = read, write
        self._read, self._write = read, write

    @classmethod
    def create(cls) -> Queue:
        """Return a new, empty queue."""
        # O_DIRECT makes each write a packet that one read takes whole.
        flags = os.O_DIRECT | os.O_NONBLOCK | os.O_CLOEXEC
        return cls(*os.pipe2(flags))

    def put(self, packed: Sequence[bytes]) -> bool:
        """Add an entry; False if there is no room."""
        return self._put(_DIRECTORY + b"\0".join(packed))

    def is_empty(self) -> bool:
        """Return whether no entry waits."""
        return not polling.wait(self._read, timeout=0)

    def put_quit(self) -> None:
        """Tell all workers that all is done."""
        self._put(_QUIT)

    def get(self, parent: int) -> list[bytes] | None:
        """Wait for an entry; None when all is done.

        :param parent: a descriptor that becomes readable if the pool dies.
        :raises EOFError: if it did.
        """
        while True:
            if parent in polling.wait(self._read, parent):
                raise EOFError
            try:
                packet = os.read(self._read, _PACKET)
            except BlockingIOError:
                continue  # Another worker was faster.
            if packet == _QUIT:
                # For the next worker: a pipe has no room for one for each.
                self.put_quit()
                return None
            return packet[1:].split(b"\0")

    def _put(self, packet: bytes) -> bool:
        if len(packet) > _PACKET:
            return False
        try:
            return polling.write(self._write, packet) > 0
        except BlockingIOError:
            return False


class SharedFlags:
    """Flags of all workers: is all called off, which inodes are locked.

    :param fd: descriptor of the file in memory.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._cancelled = mmap.mmap(fd, 1)

    @classmethod
    def create(cls) -> SharedFlags:
        """Return flags of which none is set."""
        fd = os.memfd_create("shared_flags", os.MFD_CLOEXEC)
        os.ftruncate(fd, 1)
        return cls(fd)

    def close(self) -> None:
        """Let go of it."""
        self._cancelled.close()
        os.close(self.fd)

    def cancel(self) -> None:
        """Ask all workers to stop."""
        self._cancelled[0] = 1

    @property
    def is_cancelled(self) -> bool:
        """Return whether they were asked to."""
        return self._cancelled[0] != 0

    def lock(self, inode: int) -> None:
        """Wait until no other worker has this inode, and take it."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, inode & (2**62 - 1))

    def unlock(self, inode: int) -> None:
        """Let others have it."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, inode & (2**62 - 1))


def report(fd: int, kind: int, number: int = 0) -> None:
    """Tell the pool something.

    :raises BrokenPipeError: if the pool died.
    """
    os.write(fd, _REPORT.pack(kind, number))


def read_reports(fd: int) -> list[tuple[int, int]]:
    """Return all reports that wait, oldest first."""
    return list(_REPORT.iter_unpack(os.read(fd, 400 * _REPORT.size)))
