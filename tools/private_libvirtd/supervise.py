# SPDX-License-Identifier: Apache-2.0
"""The duties of a PID namespace's first process."""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator

from private_libvirtd import daemon

# How long a command that was sent a signal may take to end.
ENDS_WITHIN = 10.0
KILLED = 128 + signal.SIGKILL


def supervise(command: int, lifeline: int, libvirtd: int | None = None) -> int:
    """Reap whoever ends, until the command does or must.

    :param lifeline: where signals for the command come from, one byte each;
        at its end there is no one to run for.
    :returns: the command's exit status.
    """
    children = signal_pipe()
    give_up: float | None = None
    while True:
        for pid, status in reap():
            if pid == command:
                return status
            if pid == libvirtd:
                print(
                    f"private-libvirtd: libvirtd died; {daemon.log_tail()}",
                    file=sys.stderr,
                )
        left = None if give_up is None else give_up - time.monotonic()
        if left is not None and left <= 0:
            return KILLED
        ready, _, _ = select.select([lifeline, children], [], [], left)
        if children in ready:
            os.read(children, 4096)
        if lifeline in ready:
            sent = os.read(lifeline, 1)
            if not sent:
                return KILLED
            os.kill(command, sent[0])
            give_up = time.monotonic() + ENDS_WITHIN


def signal_pipe() -> int:
    """Make a pipe become readable when a child ends; return its end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def reap() -> Iterator[tuple[int, int]]:
    """List the children that ended, with exit statuses as a shell's."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            yield pid, 128 - code if code < 0 else code
