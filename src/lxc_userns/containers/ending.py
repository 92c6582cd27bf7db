# SPDX-License-Identifier: Apache-2.0
"""End of a container, and waiting for it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns.exceptions import InstanceError, NotRunningError
from lxc_userns.libvirtd.daemon import LOG_DIRECTORY
from lxc_userns.linux import exit_events
from lxc_userns.linux.exit_status import ExitStatus
from lxc_userns.linux.process import Process
from lxc_userns.traces.trace import describe_status

if TYPE_CHECKING:
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.libvirtd.client import Guests
    from lxc_userns.services import Services
    from lxc_userns.traces.store import Traces
    from lxc_userns.traces.trace import Trace

#: Exit code for one that somebody on the host has stopped: as of a program
#: that SIGTERM has ended.
STOPPED = 128 + signal.SIGTERM
#: Exit code for one of which it is not known how it ended.
UNKNOWN = 125
_UNCERTAIN = (None, signal.SIGKILL)
#: Seconds that an end takes to be noted.
_NOTED, _POLL = 2.0, 0.01


@dataclass(frozen=True, slots=True)
class Ending:
    """End of a container.

    :param status: how its first process ended, as :manpage:`wait(2)` tells
        it; None if that is not known.
    :param is_stopped: whether somebody on the host has stopped it, by
        ``container stop``, ``container destroy`` or ``virsh destroy``.
    """

    status: int | None
    is_stopped: bool

    @property
    def exit_code(self) -> int:
        """Exit code for a process that stands for it.

        That of its first process, or 128 and the number of the signal that
        ended it; 0 if it has powered itself off, 125 if that is not known,
        143 if somebody on the host has stopped it.
        """
        if self.is_stopped:
            return STOPPED
        if self.status is None:
            return UNKNOWN
        if os.WIFEXITED(self.status):
            return os.WEXITSTATUS(self.status)
        number = os.WTERMSIG(self.status)
        # By which the kernel ends what calls reboot(2) to power off.
        return 0 if number == signal.SIGINT else 128 + number

    def describe(self) -> str:
        """Say how it ended."""
        return "stopped" if self.is_stopped else describe_status(self.status)


def ended_at_once(name: str, trace: Trace) -> InstanceError:
    """Return the error for a container that did not stay."""
    how = trace.describe() or "the reason is not known"
    said = "; ".join(trace.console)
    printed = f"it printed: {said}" if said else "it printed nothing"
    log = f"{LOG_DIRECTORY}/{name}.log"
    return InstanceError(
        name,
        f"its first process ended at once: {how}; {printed}; what libvirt "
        f"says is in {log}",
    )


def wait_for_end(
    services: Services, name: str, *, patience: float = _NOTED
) -> Ending:
    """Wait until a container has ended; one that reboots has not.

    :param patience: seconds that the note of an end may take then.
    :returns: how it has, or did if it does not run.
    :raises NotRunningError: if it does not run, and did not before.
    :raises LibvirtError: if libvirt cannot be asked.
    """
    guests, traces = services.guests, services.traces
    known = services.instances.load(name)
    noted = traces.read(name)
    status, controller = _follow(guests, name)
    if status in _UNCERTAIN and not (controller and noted.ended):
        # Two look, for what has powered itself off is told but for a moment.
        # What was noted of one that ran then is of a run before.
        noted = _await_note(traces, name, patience)
        status = status if noted.status is None else noted.status
    # In this order: the note goes with the domain, and after it.
    stopped = traces.stopped_run(name)
    guest = guests.find(name)
    # Of the run that was waited for, or else the last that was noted.
    run = controller or noted.controller
    is_noted = stopped not in (None, 0) and run in (None, stopped)
    if guest is None:
        is_stopped = is_noted or _is_destroyed(services, name, known)
    else:
        is_stopped = is_noted or (guest.is_destroyed and stopped != 0)
    if not (controller or noted.ended or is_stopped):
        raise NotRunningError(name)
    return Ending(status, is_stopped)


def _is_destroyed(
    services: Services, name: str, known: InstanceRecord | None
) -> bool:
    """Return whether a container was destroyed that libvirt does not know.

    Else its domain was undefined while it ran, or is of others.

    :param known: its record, when it was still there.
    """
    if known is None:
        return False
    # Who destroys one removes the record last, under this lock.
    with services.store.lock_container(name):
        found = services.store.load(name)
    return found is None or found.uuid != known.uuid


def _follow(guests: Guests, name: str) -> tuple[int | None, int | None]:
    """Wait for the end of a container.

    :returns: its status, if that is told, and the process ID of its
        ``libvirt_lxc``; None if it does not run.
    """
    status, controller = None, None
    with suppress(NotRunningError):
        while True:
            with guests.init_process(name) as init:
                with suppress(ProcessLookupError):
                    controller = init.parent
                status = _wait(init)
    return status, controller


def _wait(init: Process) -> int | None:
    with (
        suppress(ProcessLookupError),
        exit_events.listening(init.parent) as events,
        closing(ExitStatus(int(init.pid), events)) as status,
    ):
        # While this one is there, the number is its own.
        _ = init.parent
        return status.wait()
    return None


def _await_note(traces: Traces, name: str, patience: float) -> Trace:
    deadline = time.monotonic() + patience
    while not (trace := traces.read(name)).ended:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL)
    return trace
