# SPDX-License-Identifier: Apache-2.0
"""Process beside a container that keeps what it prints and how it ends.

It is begun before the container is started, for libvirt's process for it may
end soon after. It is given a descriptor of the directory to write to, the
container's name by its arguments, and standard input, which is closed once
the container was started or could not be.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from lxc_userns.linux import exit_events
from lxc_userns.linux.exit_events import ExitEvents
from lxc_userns.linux.exit_status import ExitStatus
from lxc_userns.linux.process import Process
from lxc_userns.traces import memory
from lxc_userns.traces.console import Console, Log

END = "end.json"
_STATUS_DIRECTORY = "/run/libvirt/lxc"
_PROGRAM = "libvirt_lxc"
#: Seconds between looks while a container is started, and in which one that
#: reboots has to be there again.
_TICK, _PATIENT_TICK, _REBOOT = 0.002, 0.01, 15.0
#: Seconds in which a container is begun and in its control groups.
_SETTLED = 15.0
#: Seconds between looks whether somebody else still has the console, and from
#: what it wrote to a look for kills: its group goes with it, with the count.
_PAUSE = 0.2
#: Seconds between looks for kills while nothing else happens.
_INTERVAL = 1.0
#: By which the kernel ends what calls reboot(2) to restart; a pidfd tells of
#: the kill with which that begins instead.
_RESTARTS = {signal.SIGHUP, signal.SIGKILL}


def main() -> None:
    """Watch a container until it has ended for good."""
    name, directory = sys.argv[2], int(sys.argv[3])
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    # By which others know that somebody watches.
    fcntl.flock(directory, fcntl.LOCK_SH)
    log = Log(directory)
    before = _read_pid(name)
    os.write(1, b"ready\n")
    controller = _await_start(name, before)
    while controller is not None:
        watched = Watched(controller, log)
        watched.follow()
        _write_end(directory, watched)
        controller = None
        if may_restart(watched.status):
            controller = _await_restart(name, watched.pid, directory)
        if controller is not None:
            _forget_end(directory)


class Watched:
    """A container between its start and its end.

    :param pid: of libvirt's process for it.
    :param log: keeps what it prints.
    :param subscribe: as :func:`exit_events.subscribe`.
    :param find_files: as :func:`memory.find_files`.
    :param clock: gives seconds that only grow.
    :param make_poll: as :func:`select.poll`.
    """

    def __init__(
        self,
        pid: int,
        log: Log,
        *,
        subscribe: Callable[[int], ExitEvents | None] = exit_events.subscribe,
        find_files: Callable[[int], list[str]] = memory.find_files,
        clock: Callable[[], float] = time.monotonic,
        make_poll: Callable[[], select.poll] | None = None,
    ) -> None:
        self.pid = pid
        self.init: ExitStatus | None = None
        self._find_files, self._clock = find_files, clock
        # A service that watches nothing may have none, by eventlet.
        self._make_poll = make_poll or select.poll
        self.status: int | None = None
        self.kills = 0
        self._pidfd = os.pidfd_open(pid)
        self._files: list[str] = []
        self._settled = clock() + _SETTLED
        self._is_quiet = True
        # Its children are told of before one is found.
        self._events = subscribe(pid)
        self._console: Console | None = None
        with suppress(OSError, ValueError):
            number = _console_number(pid)
            self._console = Console(self._pidfd, number, log)

    def follow(self) -> None:
        """Read its console until it has ended."""
        while not _has_ended(self._pidfd):
            if self.init is None:
                self._find_init()
            self.wait()
        if self._console is not None:
            self._console.drain()
            self._console.close()
        self._note_end()
        os.close(self._pidfd)

    def wait(self) -> None:
        """Wait for something to happen, for a while, and note it."""
        poll = self._make_poll()
        poll.register(self._pidfd, select.POLLIN)
        if self.init is not None and self.status is None:
            poll.register(self.init.pidfd, select.POLLIN)
        is_shared = self._console is not None and self._console.is_shared
        if self._console is not None and not is_shared:
            poll.register(self._console.fd, select.POLLIN)
        timeout = _INTERVAL if self._is_quiet and not is_shared else _PAUSE
        if self._is_settling:
            timeout = _TICK
        ready = {fd for fd, _ in poll.poll(timeout * 1000)}
        # First of all: its parent waits for it at once.
        if self.init is not None and self.init.pidfd in ready:
            self._note_death(self.init)
        # Whatever it was, the groups may be gone before the next look.
        self._count_known_kills()
        if self.init is not None and (not ready or self._is_settling):
            self._count_kills()
        if self._console is not None and self._console.fd in ready:
            self._console.read()
        self._is_quiet = not ready

    @property
    def _is_settling(self) -> bool:
        """Return whether something that comes with a start is awaited.

        Some hosts have no group in which kills are counted.
        """
        is_found = self.init is not None and self._files
        return not is_found and self._clock() < self._settled

    def _find_init(self) -> None:
        children = f"/proc/{self.pid}/task/{self.pid}/children"
        with suppress(OSError), open(children, encoding="ascii") as stream:
            for pid in map(int, stream.read().split()):
                with suppress(OSError), Process(pid) as process:
                    if process.is_first and process.parent == self.pid:
                        self.init = ExitStatus(pid, self._events)
                        return

    def _note_death(self, init: ExitStatus) -> None:
        self.status = init.wait()
        self._count_kills()

    def _count_kills(self) -> None:
        """Count them once more: its groups go with it, and the count too."""
        # Those known already first, for they may go at any moment.
        self._count_known_kills()
        with suppress(OSError):
            # libvirt moves it there only once its first process is begun.
            self._files = self._find_files(self.pid) or self._files
        self._count_known_kills()

    def _count_known_kills(self) -> None:
        self.kills = max(self.kills, memory.count_kills(self._files))

    def _note_end(self) -> None:
        if self.init is not None:
            self._count_kills()
            if self.status is None:
                self.status = self.init.read()
            self.init.close()
        if self._events is not None:
            if self.init is None:
                self.status = _only(self._events.read().values())
            self._events.close()


def _only(statuses: Collection[int]) -> int | None:
    """Return the first process's end, if there was no other to end."""
    return next(iter(statuses)) if len(statuses) == 1 else None


def may_restart(status: int | None) -> bool:
    """Tell whether a container may have ended to start again.

    :param status: how its first process ended; None if that is not known.
    """
    return status is None or (
        os.WIFSIGNALED(status) and os.WTERMSIG(status) in _RESTARTS
    )


def _await_start(name: str, before: int | None) -> int | None:
    """Wait for libvirt's process until the start has come to its end."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    while (found := _find_controller(name, before)) is None:
        if poll.poll(_TICK * 1000):
            return _find_controller(name, before)
    return found


def _await_restart(name: str, before: int, directory: int) -> int | None:
    """Wait for another process of libvirt's for a container that reboots."""
    deadline = time.monotonic() + _REBOOT
    while (found := _find_controller(name, before)) is None:
        # With the next start, another one watches in another directory.
        is_replaced = os.fstat(directory).st_nlink == 0
        if is_replaced or time.monotonic() > deadline:
            return None
        time.sleep(_PATIENT_TICK)
    return found


def _find_controller(name: str, before: int | None) -> int | None:
    pid = _read_pid(name)
    if pid is None or pid == before:
        return None
    with suppress(OSError):
        arguments = _arguments(pid)
        # Until it has executed that, it is libvirtd itself.
        if os.path.basename(arguments[0]) == _PROGRAM and name in arguments:
            return pid
    return None


def _read_pid(name: str) -> int | None:
    with suppress(OSError, ValueError):
        path = f"{_STATUS_DIRECTORY}/{name}.pid"
        with open(path, encoding="ascii") as stream:
            return int(stream.read())
    return None


def _arguments(pid: int) -> list[str]:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as stream:
        return stream.read().split("\0")


def _console_number(pid: int) -> int:
    arguments = _arguments(pid)
    return int(arguments[arguments.index("--console") + 1])


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _write_end(directory: int, watched: Watched) -> None:
    end = {
        "status": watched.status,
        "oom_kills": watched.kills,
        "controller": watched.pid,
        "time": int(time.time()),
    }
    new = f".{END}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    # The container may have been forgotten, and the directory with it.
    with suppress(OSError):
        fd = os.open(new, flags, 0o600, dir_fd=directory)
        with open(fd, "w", encoding="ascii") as stream:
            json.dump(end, stream)
        os.rename(new, END, src_dir_fd=directory, dst_dir_fd=directory)


def _forget_end(directory: int) -> None:
    with suppress(OSError):
        os.unlink(END, dir_fd=directory)
