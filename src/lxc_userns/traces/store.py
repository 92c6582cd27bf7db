# SPDX-License-Identifier: Apache-2.0
"""Traces of the containers of a host, below the state path."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    suppress,
)
from typing import IO, Any, cast

from lxc_userns import own_paths
from lxc_userns.linux import directory, programs
from lxc_userns.linux.fd import owned
from lxc_userns.text import escape
from lxc_userns.traces import watcher
from lxc_userns.traces.console import LOG, OLDER
from lxc_userns.traces.trace import Trace

_NAME, _MODE = "traces", 0o700
#: File that is there once somebody has stopped the container.
_STOP = "stop"
#: What is shown of a console.
_LINES, _BYTES = 10, 2000
#: Seconds that the end of a container takes to be noted.
_PATIENCE, _POLL = 10.0, 0.01


class Traces:
    """The traces of a host's containers.

    :param state_path: directory of root's that holds them, closed to others.
    """

    def __init__(self, state_path: str) -> None:
        self._state_path = state_path

    @contextmanager
    def watched(self, name: str) -> Iterator[Watch]:
        """Watch a container that is started meanwhile, until it has ended.

        What was noted of its last run is removed.

        :raises ConfigError: if the state path cannot be used, or no process
            can be started.
        """
        with ExitStack() as stack:
            with self._translated():
                self.remove(name)
                # Open, and so locked, also if the watcher has ended before
                # libvirt says that the container was started.
                fd = stack.enter_context(self._made(name))
                process = _start(name, fd)
            stack.enter_context(cast("IO[bytes]", process.stdin))
            yield Watch(self, name, process)

    def read(self, name: str) -> Trace:
        """Read what is known of the last run of a container."""
        with self._opened(name) as fd:
            if fd is None:
                return Trace()
            end = _read_end(fd)
            return Trace(
                end is not None,
                end["status"] if end else None,
                end["oom_kills"] if end else 0,
                tuple(_read_lines(fd)),
                end.get("controller") if end else None,
            )

    def open_console(self, name: str, *, older: bool = False) -> int | None:
        """Open what a container has printed in its last run.

        :param older: whether to open the part before the present one.
        :returns: descriptor of a regular file; None if there is none.
        """
        with self._opened(name) as fd, suppress(FileNotFoundError):
            if fd is not None:
                return directory.open_regular(fd, OLDER if older else LOG)
        return None

    def note_stop(self, name: str, controller: int | None) -> None:
        """Note that somebody stops a container now.

        :param controller: process ID of its ``libvirt_lxc``, which tells this
            run from others; None if it had ended by itself, and libvirt had
            not noticed that.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with (
            self._translated(),
            directory.make_subdir(
                self._state_path, _MODE, _NAME, _MODE
            ) as traces,
        ):
            # Of one that libvirt has started nothing was noted.
            if name not in os.listdir(traces):
                directory.make_in(traces, name, _MODE)
            with (
                directory.opened_in(traces, name) as fd,
                owned(os.open(_STOP, flags, 0o600, dir_fd=fd)) as stop,
            ):
                os.write(stop, str(controller or 0).encode())

    def stopped_run(self, name: str) -> int | None:
        """Return which run of a container somebody has stopped last.

        :returns: the process ID that :meth:`note_stop` was given, 0 if it was
            None; None if no one has since ``container run`` or ``start``.
        """
        with self._opened(name) as fd, suppress(OSError, ValueError):
            if fd is not None:
                with open(
                    directory.open_regular(fd, _STOP), encoding="ascii"
                ) as stream:
                    return int(stream.read())
        return None

    def remove(self, name: str) -> None:
        """Remove the traces of a container; nothing happens without any."""
        with (
            self._translated(),
            directory.open_subdir(self._state_path, _MODE, _NAME) as traces,
        ):
            if traces is not None and name in os.listdir(traces):
                directory.remove_tree(traces, name)

    def begin_unwatched(self, name: str) -> None:
        """Remove the traces of earlier runs of one that libvirt has started.

        Nothing happens if a process watches it, as one that reboots.
        """
        with self._opened(name) as fd, suppress(BlockingIOError):
            if fd is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.remove(name)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int | None]:
        with (
            self._translated(),
            directory.open_subdir(self._state_path, _MODE, _NAME) as traces,
        ):
            if traces is None or name not in os.listdir(traces):
                yield None
                return
            with directory.opened_in(traces, name) as fd:
                yield fd

    @contextmanager
    def _made(self, name: str) -> Iterator[int]:
        with directory.make_subdir(
            self._state_path, _MODE, _NAME, _MODE
        ) as traces:
            directory.make_in(traces, name, _MODE)
            with directory.opened_in(traces, name) as fd:
                yield fd

    def _translated(self) -> AbstractContextManager[None]:
        return own_paths.translated("state_path", self._state_path)


class Watch:
    """The process that watches one container.

    :param traces: where it writes to.
    :param name: the container's name.
    """

    def __init__(
        self, traces: Traces, name: str, process: subprocess.Popen[bytes]
    ) -> None:
        self._traces, self._name, self._process = traces, name, process

    def wait(self) -> Trace:
        """Return the trace of the container, which is known to have ended."""
        cast("IO[bytes]", self._process.stdin).close()
        deadline = time.monotonic() + _PATIENCE
        while not (trace := self._traces.read(self._name)).ended:
            is_over = self._process.poll() is not None
            if is_over or time.monotonic() > deadline:
                return self._traces.read(self._name)
            time.sleep(_POLL)
        return trace


def _start(name: str, fd: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        programs.python_argv(watcher.__name__, name, str(fd)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        cwd="/",
        env=programs.ENVIRONMENT,
        start_new_session=True,
    )  # fmt: skip
    with cast("IO[bytes]", process.stdout) as stream:
        if not stream.readline():
            raise OSError(f"{sys.executable} cannot watch {name}")
    return process


def _read_end(fd: int) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        with open(
            directory.open_regular(fd, watcher.END), encoding="ascii"
        ) as stream:
            end: dict[str, Any] = json.load(stream)
        return end
    return None


def _read_lines(fd: int) -> list[str]:
    """Return the last lines of a console; a container can print anything."""
    tail = b""
    for name in (OLDER, LOG):
        with (
            suppress(OSError),
            open(directory.open_regular(fd, name), "rb") as stream,
        ):
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _BYTES))
            tail = (tail + stream.read(_BYTES))[-_BYTES:]
    text = tail.decode(errors="replace").replace("\r", "")
    lines = (escape(line) for line in text.split("\n"))
    return [line for line in lines if line.strip()][-_LINES:]
