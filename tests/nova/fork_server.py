# SPDX-License-Identifier: Apache-2.0
"""A process that has loaded Nova's modules, and forks for each Nova.

usage: python -m tests.nova.fork_server DESCRIPTOR [--in-process]

To load them takes longer than most of what a test does with them. The socket
of that number gets a message for each Nova, its directory, with descriptors of
its channel and its output, and gives its process ID. ``--in-process`` is for
privileged functions without a process of their own.
"""

import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
#: Longest message, in bytes.
LONGEST = 4096


@dataclass(frozen=True)
class Process:
    """A process that is another's child."""

    pid: int
    descriptor: int

    def wait(self, timeout: float) -> bool:
        """Wait for its end; false if it has not come after some seconds."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self) -> None:
        """End it."""
        signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)


class ForkServer:
    """The process, as its parent sees it; it ends with it.

    :param words: words before its command, that give it to another user.
    :param privsep_daemon: whether privileged functions run in a process of
        their own, as they do in real life.
    :ivar schemas: of the databases, once a Nova has made them.
    """

    def __init__(
        self, words: Sequence[str] = (), *, privsep_daemon: bool = True
    ) -> None:
        self.schemas: object = []
        self._output = os.memfd_create("output")
        self._channel, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        argv = [*words, sys.executable, "-W", "ignore"]
        argv += ["-m", __name__, str(theirs.fileno())]
        argv += [] if privsep_daemon else ["--in-process"]
        with theirs:
            self._process = subprocess.Popen(
                argv,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, directory: Path, *descriptors: int) -> Process:
        """Start a Nova.

        :param directory: its own.
        :param descriptors: of its channel and of its output.
        """
        try:
            message = [os.fsencode(directory)]
            socket.send_fds(self._channel, message, descriptors)
            answer = self._channel.recv(LONGEST)
        except OSError:
            answer = b""
        if not answer:
            size = os.fstat(self._output).st_size
            end = os.pread(self._output, LONGEST, max(0, size - LONGEST))
            raise AssertionError(f"Nova was not loaded: {end!r}")
        # Its parent has not waited for it before the next is asked for.
        return Process(int(answer), os.pidfd_open(int(answer)))

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._channel.close()
        self._process.wait()
        os.close(self._output)


def serve(channel: socket.socket, inherited: int) -> None:
    """Fork until there are no more requests."""
    while True:
        message, descriptors, *_ = socket.recv_fds(channel, LONGEST, 2)
        if not message:
            return
        reap()
        pid = os.fork()
        if pid == 0:
            os.close(inherited)
            become(message.decode(), *descriptors)
        for each in descriptors:
            os.close(each)
        channel.send(str(pid).encode())


def reap() -> None:
    """Forget those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def become(directory: str, channel: int, output: int) -> None:
    """Be a Nova, and end with it."""
    try:
        for descriptor in 1, 2:
            os.dup2(output, descriptor)
        os.close(output)
        os.environ |= {"HOME": directory, "TMPDIR": f"{directory}/tmp"}
        tempfile.tempdir = None
        service = importlib.import_module("tests.nova.service")
        service.run(socket.socket(fileno=channel), Path(directory))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Nova's threads that wait for events of libvirt would never end.
    os._exit(0)


def main() -> None:
    """Load what takes long, and serve."""
    inherited = int(sys.argv[1])
    # Made before green threads take the place of its class.
    channel = socket.socket(fileno=inherited)
    # Before any other module of Nova, and before what these use.
    importlib.import_module("tests.nova.concurrency").choose()
    if "--in-process" in sys.argv:
        importlib.import_module("tests.nova.privsep").stay_in_process()
    importlib.import_module("tests.nova.service")
    # Collections in what is forked go over what is its own alone.
    gc.collect()
    gc.freeze()
    serve(channel, inherited)


if __name__ == "__main__":
    main()
