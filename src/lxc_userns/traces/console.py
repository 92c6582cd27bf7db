# SPDX-License-Identifier: Apache-2.0
"""The console of a container, read into a file of bounded size."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lxc_userns.linux import pidfds
from lxc_userns.linux.inotify import Openings

LOG, OLDER = "console.log", "console.log.1"
#: Bytes of a log before it becomes the older one.
_LONGEST = 512 << 10
#: Bytes a second that are read; a container that prints more has to wait.
_RATE = 1 << 20
_CHUNK = 4096


class Log:
    """A log, and the one before it.

    :param directory: descriptor of the directory for them.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._fd = self._open()

    def write(self, data: bytes) -> None:
        """Append to it; what cannot be written is lost."""
        with suppress(OSError):
            if os.fstat(self._fd).st_size > _LONGEST:
                os.rename(
                    LOG,
                    OLDER,
                    src_dir_fd=self._directory,
                    dst_dir_fd=self._directory,
                )
                os.close(self._fd)
                self._fd = self._open()
            os.write(self._fd, data)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(
            LOG, flags | os.O_NOFOLLOW, 0o600, dir_fd=self._directory
        )


class Console:
    """The host's end of a container's console.

    The master is held as well as libvirt holds it: what was printed can still
    be read when the container and libvirt's process for it have ended.

    :param controller: pidfd of libvirt's process for it.
    :param number: the descriptor that it has the master as.
    :param log: where to write what is printed.
    :raises OSError: if it cannot be had.
    """

    def __init__(self, controller: int, number: int, log: Log) -> None:
        self._master = pidfds.take_file(controller, number)
        self.fd = pidfds.open_terminal(self._master)
        self._log = log
        self._others = self._watch()

    @property
    def is_shared(self) -> bool:
        """Return whether another has it open, as "virsh console" does."""
        if self._others is None:
            return False
        self._others.update()
        return self._others.count > 0

    def read(self) -> None:
        """Read some of what was printed."""
        self._take()

    def drain(self) -> None:
        """Read all that is left, when the container has ended."""
        while self._take():
            pass

    def close(self) -> None:
        """Give it up."""
        for fd in (self.fd, self._master):
            os.close(fd)
        if self._others is not None:
            self._others.close()

    def _take(self) -> bool:
        try:
            data = os.read(self.fd, _CHUNK)
        except OSError:
            return False
        if data:
            self._log.write(data)
            time.sleep(len(data) / _RATE)
        return bool(data)

    def _watch(self) -> Openings | None:
        with suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{self.fd}")
            if os.path.samestat(os.stat(path), os.fstat(self.fd)):
                return Openings(path)
        return None
