# SPDX-License-Identifier: Apache-2.0
"""Trace of a container that has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

#: As what one that reboots has ended, as far as that is told.
_RESTARTS = (None, signal.SIGHUP, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Trace:
    """Trace of a container's last run.

    :param ended: whether it has ended, as far as that was noted.
    :param status: how its first process ended, as :manpage:`wait(2)` tells
        it; None if that is not known.
    :param oom_kills: how many of its processes the kernel has killed for want
        of memory.
    :param console: the last lines that it has printed.
    :param controller: process ID that its ``libvirt_lxc`` had, which tells
        this run from others; None if that was not noted.
    """

    ended: bool = False
    status: int | None = None
    oom_kills: int = 0
    console: tuple[str, ...] = ()
    controller: int | None = None

    @property
    def is_reboot(self) -> bool:
        """Whether its first process has ended as one that reboots does.

        The kernel kills it by SIGHUP for that (:manpage:`reboot(2)`).
        """
        return self.ended and self.status == signal.SIGHUP

    def is_end_of(self, controller: int) -> bool:
        """Return whether a run has ended, and not as one that may yet reboot.

        :param controller: process ID of its ``libvirt_lxc``.
        """
        return self.controller == controller and self.status not in _RESTARTS

    def describe(self) -> str | None:
        """Say how it ended; None if it has not, as far as is known."""
        return "; ".join(self._clauses()) if self.ended else None

    def _clauses(self) -> Iterator[str]:
        yield describe_status(self.status)
        if self.oom_kills:
            yield (
                f"{self.oom_kills} of its processes were killed for want of "
                "memory"
            )


def describe_status(status: int | None) -> str:
    """Say how a process ended, by what :manpage:`wait(2)` tells."""
    if status is None:
        return "exit status unknown"
    if os.WIFEXITED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    # By which the kernel ends what calls reboot(2) for that.
    if number == signal.SIGINT:
        return "powered off"
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:  # Of those for real time.
        return f"signal {number}"
