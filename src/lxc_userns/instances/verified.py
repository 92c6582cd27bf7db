# SPDX-License-Identifier: Apache-2.0
"""Marks of verification: which start of a container was verified, and when."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lxc_userns.linux.boot import read_boot_id

if TYPE_CHECKING:
    from lxc_userns.linux.process import Process


@dataclass(frozen=True, slots=True)
class Verified:
    """The start of a container that was found to be as promised.

    A reboot from inside gives it another first process: that is another
    start, which no one has verified yet.

    :param time: when it was found so first, in seconds since the epoch.
    :param boot_id: the boot of the host (:manpage:`random(4)`).
    :param init_pid: host's process ID of its first process.
    :param init_start: when that was started, in clock ticks since the boot
        (:manpage:`proc_pid_stat(5)`).
    """

    time: int
    boot_id: str
    init_pid: int
    init_start: int

    @classmethod
    def now(cls, init: Process) -> Verified:
        """Make the mark of a container that was verified just now.

        :param init: its first process.
        :raises ProcessLookupError: if it has ended.
        """
        return cls(
            int(time.time()), read_boot_id(), int(init.pid), init.start_time
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verified:
        """Read what :meth:`to_dict` gave.

        :raises ValueError: if a value is of another type.
        :raises TypeError: if one is missing, or unknown.
        """
        mark = cls(**data)
        numbers = (mark.time, mark.init_pid, mark.init_start)
        if not all(type(number) is int for number in numbers):
            raise ValueError("verified has a value that is no integer")
        if not isinstance(mark.boot_id, str):
            raise ValueError("verified has a boot_id that is no text")
        return mark

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, for JSON."""
        return asdict(self)

    def is_same_start(self, other: Verified | None) -> bool:
        """Tell whether both are of the same first process."""
        return other is not None and (
            (self.boot_id, self.init_pid, self.init_start)
            == (other.boot_id, other.init_pid, other.init_start)
        )
