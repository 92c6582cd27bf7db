# SPDX-License-Identifier: Apache-2.0
"""Processes of the installed program without its imports.

Start of the interpreter and imports are most of what a call of the program
costs, and the tests make some thousand. Here a process that has imported
everything forks one process for each call; all else is as if the program
had been executed: arguments, environment, directory, streams, umask, exit.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

from cliff import formatters

import lxc_userns

#: Read by the interpreter or the C library as it starts.
_EARLY = ("LANG", "LC_", "PYTHON", "LD_", "LIBVIRT_DEBUG")
_LARGEST = 1 << 20
_TOP = Path(__file__).parents[2]
_MAIN = "import sys; from tests.functional.fork_server import serve; serve()"


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that only a new interpreter would read."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_EARLY)
    }


class ForkServer:
    """Client of a server process, which ends with the client.

    It is no child of the client's: tests look for children of theirs.
    """

    def __init__(self) -> None:
        self.early = early(os.environ)
        self._socket, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _MAIN],
                stdin=theirs.fileno(),
                # Pipes, as those of each call: what the interpreter makes of
                # them it makes once.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=_TOP,
            )
            process.wait()
        # What it says before it serves goes nowhere, and has to be short.
        self._pipes = process.stdout, process.stderr
        atexit.register(self._close)

    def _close(self) -> None:
        # Copies of the socket may be left in processes forked by tests.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def start(
        self, argv: Sequence[str], streams: Sequence[int], umask: int
    ) -> "Child":
        """Start the program in the working directory of the caller.

        :param streams: standard input, output and error.
        """
        call = json.dumps([list(argv), dict(os.environ), umask]).encode()
        # Of messages: both may be there before the first is read.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = os.open(".", os.O_PATH)
        with theirs, _closing([here]):
            descriptors = [*streams, here, theirs.fileno()]
            socket.send_fds(self._socket, [call], descriptors)
        return Child(ours)


class Child:
    """A process of the server."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = int(channel.recv(16))

    def wait(self) -> int:
        """Return its exit code, negative for a signal."""
        with self._channel:
            return int(self._channel.recv(16))

    def kill(self) -> None:
        """Kill it, before it was waited for."""
        os.kill(self._pid, signal.SIGKILL)


@cache
def _server() -> ForkServer:
    return ForkServer()


def can_serve() -> bool:
    """Tell whether a forked process is what a new one would be."""
    return early(os.environ) == _server().early


def run(
    argv: Sequence[str], *, umask: int, timeout: float
) -> "subprocess.CompletedProcess[bytes]":
    """Run the program as :func:`subprocess.run` would, capturing output.

    :raises subprocess.TimeoutExpired: it did not end; it is killed.
    """
    (out, their_out), (err, their_err) = os.pipe(), os.pipe()
    with _closing([out, err]):
        with _closing([their_out, their_err]):
            streams = [0, their_out, their_err]
            child = _server().start(argv, streams, umask)
        try:
            texts = _read([out, err], timeout)
        except TimeoutError as end:
            child.kill()
            raise subprocess.TimeoutExpired(argv, timeout) from end
        finally:
            code = child.wait()
    return subprocess.CompletedProcess(argv, code, *texts)


def _read(pipes: Sequence[int], timeout: float) -> list[bytes]:
    """Read each to its end."""
    texts = dict.fromkeys(pipes, b"")
    deadline = time.monotonic() + timeout
    left = set(pipes)
    # Not select(), which takes none above 1023.
    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe, select.POLLIN)
    while left:
        rest = max(0, deadline - time.monotonic())
        ready = poll.poll(rest * 1000)
        if not ready:
            raise TimeoutError
        for pipe, _ in ready:
            text = os.read(pipe, _LARGEST)
            texts[pipe] += text
            if not text:
                left.remove(pipe)
                poll.unregister(pipe)
    return list(texts.values())


@contextmanager
def _closing(descriptors: Sequence[int]) -> Iterator[None]:
    """Close them in the end."""
    try:
        yield
    finally:
        for each in descriptors:
            os.close(each)


def serve() -> None:
    """Fork a process for each call, until the client has gone.

    The process that was forked returns from here, into the program.
    """
    if os.fork():
        os._exit(0)
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    _import_everything()
    # The working directory, where nothing is to be imported from later.
    del sys.path[0]
    gc.freeze()
    running: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                poll.unregister(descriptor)
                _reap(descriptor, *running.pop(descriptor))
                continue
            message, descriptors, _, _ = socket.recv_fds(control, _LARGEST, 5)
            if not message:
                sys.exit()
            channel = socket.socket(fileno=descriptors.pop())
            pid = os.fork()
            if not pid:
                others = (channel for _, channel in running.values())
                for each in (control, channel, *others):
                    each.detach()
                _become(message, descriptors)
            for number in descriptors:
                os.close(number)
            channel.send(b"%d" % pid)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, channel
            poll.register(pidfd, select.POLLIN)


def _import_everything() -> None:
    for package in (lxc_userns, formatters):
        prefix = f"{package.__name__}."
        for module in pkgutil.walk_packages(package.__path__, prefix):
            if not module.name.startswith("lxc_userns.nova"):
                importlib.import_module(module.name)


def _reap(pidfd: int, pid: int, channel: socket.socket) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with channel:
        channel.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(message: bytes, descriptors: Sequence[int]) -> NoReturn:
    """Be the program."""
    argv, environment, umask = json.loads(message)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.fchdir(descriptors[3])
    os.closerange(3, max(descriptors) + 1024)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(umask)
    sys.argv = argv
    from lxc_userns.cli.main import main

    status = main()
    if threading.active_count() > 1:
        sys.exit(status)
    # The interpreter would free each object, and so copy each page that is
    # still the server's: half of the time of a command.
    atexit._run_exitfuncs()
    os._exit(status)
