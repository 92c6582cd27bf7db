# SPDX-License-Identifier: Apache-2.0
"""The supervisor of a sandbox around tar, started and listened to.

A supervisor is a process of this package that reads a job from its standard
input, and writes a result to its standard output; what the programs in its
sandbox complain of goes to its standard error.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from lxc_userns.exceptions import PrerequisiteError
from lxc_userns.linux import polling, programs
from lxc_userns.rootfs.archive.tar_errors import Diagnostics
from lxc_userns.rootfs.shifting import ipc

#: Told the bytes of an archive that were read or written so far.
Progress = Callable[[int], None]

#: Reasons for a sandbox that could not be made.
REASONS = {
    errno.ENOSYS: "Linux 5.12 or later is needed",
    errno.ENOSPC: "the host's limit of namespaces is reached, see "
    "/proc/sys/user",
    errno.EPERM: "no permission (is this root?)",
}
_TICK = 0.1
_MOST_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A supervisor at work.

    :param errors: descriptor of what is complained of.
    :param result: descriptor of its result.
    """

    errors: int
    result: int


@contextmanager
def running(module: str, job: dict[str, Any]) -> Iterator[Supervisor]:
    """Start a supervisor; whatever it has started is gone afterwards.

    :param module: the whole name of its module.
    :param job: what it is to do, with the ``descriptors`` that it inherits.
    """
    process = subprocess.Popen(
        programs.python_argv(module),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=job["descriptors"],
        cwd="/",
        # An interrupt from the terminal is ours to handle.
        process_group=0,
    )
    try:
        # A supervisor that died at once is noticed by its silence.
        with suppress(BrokenPipeError):
            ipc.send(programs.pipe_fd(process.stdin), job)
        yield Supervisor(
            programs.pipe_fd(process.stderr), programs.pipe_fd(process.stdout)
        )
    finally:
        # Whatever it does, this ends it. (To close the pipe would not, if
        # another thread has forked in between.)
        with suppress(BrokenPipeError):
            polling.write(programs.pipe_fd(process.stdin), b"!")
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()


def listen(
    said: int,
    complaints: Diagnostics,
    position: Callable[[], int],
    progress: Progress | None,
) -> None:
    """Hear complaints, to the end or to one that is enough.

    :param said: descriptor to read them from.
    :param position: returns how far it is.
    :param progress: called with that some ten times a second.
    """
    data = None
    while data != b"" and complaints.first is None:
        if polling.wait(said, timeout=_TICK):
            data = os.read(said, _MOST_AT_ONCE)
            complaints.feed(data)
        if progress is not None:
            progress(position())


def find_program(purpose: str, *argv: str) -> tuple[str, tuple[str, ...]]:
    """Return the path of a program, and its arguments, its name among them.

    :param purpose: what it is needed to do, for the error.
    :raises PrerequisiteError: if this host does not have it.
    """
    path = shutil.which(argv[0], path=programs.ENVIRONMENT["PATH"])
    if path is None:
        raise PrerequisiteError(
            f"{argv[0]} is needed to {purpose}; install it"
        )
    return path, argv


def describe_exit(code: int) -> str:
    """Say how a program has failed.

    :param code: its exit code, or minus the number of a signal.
    """
    if code < 0:
        return f"was killed by signal {-code}"
    return f"failed with exit code {code}"
