# SPDX-License-Identifier: Apache-2.0
"""Logs of containers: what each printed, and what libvirt says of it.

libvirt's LXC driver accepts ``<log file=.../>`` in a ``<console>`` and writes
nothing there (tried with 9.0), so the console is the one that the process
beside a container keeps; see :mod:`lxc_userns.traces`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from lxc_userns.exceptions import LibvirtError, NoSuchContainerError
from lxc_userns.traces.tail import Tail

if TYPE_CHECKING:
    from lxc_userns.services import Services

#: Bytes of libvirt's log that are looked at; no one bounds it.
_LONGEST = 1 << 20
#: Ends the line with which libvirt begins each run (virLXCProcessStart).
_BEGIN = b": starting up"
#: Seconds between looks, and in which one that reboots is there again.
_POLL, _REBOOT = 0.5, 3.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log.

    :param source: ``libvirt`` or ``console``.
    :param text: as it was written; a container can write anything.
    """

    source: Literal["libvirt", "console"]
    text: bytes


class Logs:
    """The logs of one container's last run.

    :param services: the services of the host.
    :param name: the container's name, whoever made it; the console is kept of
        our own.
    :raises NoSuchContainerError: if there is none of this name.
    """

    def __init__(self, services: Services, name: str) -> None:
        guests = services.guests
        known = services.instances.load(name)
        if known is None and guests.find(name) is None:
            raise NoSuchContainerError(name)
        self._services, self._name = services, name
        daemon = services.find_daemon()
        self._libvirt = Tail(
            partial(daemon.open_log, name) if daemon else _open_nothing,
            _LONGEST,
        )
        open_console = partial(services.traces.open_console, name)
        self._console = Tail(open_console)
        self._older = Tail(partial(open_console, older=True))

    def read(self, last: int | None = None) -> Iterator[LogLine]:
        """Yield the lines until now, those of libvirt first.

        :param last: how many of each at most; None for all that are kept.
        """
        lines: deque[bytes] = deque(maxlen=last)
        for line in self._libvirt.read():
            if line.endswith(_BEGIN):
                lines.clear()
            lines.append(line)
        lines.extend(self._libvirt.take_rest())
        yield from (LogLine("libvirt", line) for line in lines)
        lines.clear()
        for tail in (self._older, self._console):
            lines.extend(tail.read())
            lines.extend(tail.take_rest())
        self._older.close()
        yield from (LogLine("console", line) for line in lines)

    def follow(self) -> Iterator[LogLine]:
        """Yield the lines from now on, until the container has ended."""
        last_seen = time.monotonic()
        while time.monotonic() - last_seen < _REBOOT:
            if self._is_active():
                last_seen = time.monotonic()
            yield from self._read_new(Tail.read)
            time.sleep(_POLL)
        yield from self._read_new(Tail.read)
        yield from self._read_new(Tail.take_rest)

    def close(self) -> None:
        """Read no more."""
        self._libvirt.close()
        self._console.close()

    def _read_new(
        self, read: Callable[[Tail], Iterator[bytes]]
    ) -> Iterator[LogLine]:
        for line in read(self._libvirt):
            yield LogLine("libvirt", line)
        for line in read(self._console):
            yield LogLine("console", line)

    def _is_active(self) -> bool:
        try:
            guest = self._services.guests.find(self._name)
        except LibvirtError:
            return True  # libvirtd may be restarted; the container goes on.
        # libvirt 9.0 loses the end of one now and then.
        return guest is not None and guest.is_active and not guest.is_lost


def _open_nothing() -> None:
    return None
