# SPDX-License-Identifier: Apache-2.0
"""Wait status of a process that another one waits for."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress

from lxc_userns.linux import pidfds, polling

TYPE_CHECKING = False  # It loads little, for processes that start quickly.
if TYPE_CHECKING:
    from collections.abc import Callable

    from lxc_userns.linux.exit_events import ExitEvents

_POLL = 0.002
_LONGEST = 4096


class ExitStatus:
    """Wait status of a process that another one waits for, held while it runs.

    What ended by :manpage:`reboot(2)` in a PID namespace of its own is told
    from what was killed as long as it is not waited for, and only then: its
    status is there in ``/proc`` (:manpage:`proc_pid_stat(5)`). Afterwards the
    kernel tells of the kill with which that begins.

    :param pid: its process ID.
    :param events: of its parent; None if the kernel does not tell.
    :param tell: asks the kernel, as :func:`pidfds.exit_status`.
    :raises ProcessLookupError: if there is none.
    """

    def __init__(
        self,
        pid: int,
        events: ExitEvents | None,
        tell: Callable[[int], int | None] = pidfds.exit_status,
    ) -> None:
        self._pid, self._events, self._tell = pid, events, tell
        with ExitStack() as stack:
            self.pidfd = os.pidfd_open(pid)
            stack.callback(os.close, self.pidfd)
            # Held open, for its parent waits for it at once.
            flags = os.O_RDONLY | os.O_CLOEXEC
            self._stat = os.open(f"/proc/{pid}/stat", flags)
            stack.callback(os.close, self._stat)
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Hold it no more."""
        self._opened.close()

    def wait(self) -> int | None:
        """Wait for its end, and return how it has ended, if that is told."""
        polling.wait(self.pidfd)
        while (status := self.read()) is None and self._is_there():
            time.sleep(_POLL)
        # It was told before it was gone.
        return self.read() if status is None else status

    def read(self) -> int | None:
        """Return how it has ended, as :manpage:`wait(2)` tells it.

        :returns: None if it has not, or nothing tells, yet or any more.
        """
        with suppress(OSError, ValueError, IndexError):
            text = os.pread(self._stat, _LONGEST, 0)
            # Its name, in parentheses, can have any character.
            fields = text.rpartition(b")")[2].split()
            if fields[3 - 3] == b"Z":
                return int(fields[52 - 3])
        found = self._tell(self.pidfd)
        if found is None and self._events is not None:
            found = self._events.read().get(self._pid)
        return found

    def _is_there(self) -> bool:
        with suppress(ProcessLookupError):
            return bool(os.pread(self._stat, _LONGEST, 0))
        return False
