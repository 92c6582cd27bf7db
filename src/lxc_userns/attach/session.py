# SPDX-License-Identifier: Apache-2.0
"""Starting a command in a container, and holding it."""

from __future__ import annotations

import errno
import marshal
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from lxc_userns.attach import joiner, surroundings
from lxc_userns.exceptions import (
    CommandFailedError,
    InstanceError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import cgroup_files, mount_api, namespaces, programs
from lxc_userns.linux.process import Process

_RESTRICTED = mount_api.MOUNT_ATTR_RDONLY | mount_api.MOUNT_ATTR_NOSUID
#: Descriptors with the message that it has started: of the process, and of a
#: terminal, or of three pipes.
_MOST_FDS = 4
#: Seconds that a joiner has to end when it was killed; one of a container
#: that is paused does not.
_KILL_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """Specification of a command.

    :param command: the program, found in ``PATH``, and its arguments; none
        for the user's login shell.
    :param user: user, or user and group with a colon between, by name or
        number; None for root.
    :param workdir: its working directory; None for the user's home, or ``/``
        where that is not to be entered.
    :param environment: variables that it has beside those of a login.
    :param terminal: rows and columns of a terminal of its own; None for
        pipes.
    :param term: type of that terminal.
    """

    command: tuple[str, ...] = ()
    user: str | None = None
    workdir: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    terminal: tuple[int, int] | None = None
    term: str = "linux"


class Session:
    """A command that runs in a container.

    :param pidfd: its process, which is a child of the caller's.
    :param streams: the master of its terminal; or the ends of pipes to its
        standard input, from its standard output and from its standard error.
        Who closes one takes it out.
    """

    def __init__(self, pidfd: int, streams: Sequence[int]) -> None:
        self.pidfd = pidfd
        self.streams = [*streams]

    def send_signal(self, number: int) -> None:
        """Send a signal to its process group, as a terminal would.

        It must not have been waited for.
        """
        with suppress(ProcessLookupError):
            os.killpg(_read_pid(self.pidfd), number)

    def kill(self) -> None:
        """Kill its process; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close all descriptors; none is used any more."""
        for fd in (self.pidfd, *self.streams):
            os.close(fd)
        self.streams = []

    def wait(self) -> int:
        """Wait for its end; return its exit code, 128 + n for signal n."""
        found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        if found is None:
            raise ChildProcessError("somebody else has waited for it")
        if found.si_code == os.CLD_EXITED:
            return found.si_status
        return 128 + found.si_status


@contextmanager
def start(guests: Guests, name: str, spec: CommandSpec) -> Iterator[Session]:
    """Start a command in a running container, and kill it if it is left.

    Threads of the caller have to be such to the kernel.

    :param name: name of the container, whoever made it.
    :raises NoSuchContainerError: if there is none of this name.
    :raises NotRunningError: if it does not run, or has ended meanwhile.
    :raises CommandFailedError: if the command cannot be started.
    :raises InstanceError: if it cannot be joined; among other reasons because
        it is paused.
    :raises LibvirtError: if libvirt cannot be reached.
    """
    guest = guests.find(name)
    if guest is None:
        raise NoSuchContainerError(name)
    if guest.state == "paused":
        quoted = shlex.quote(name)
        raise InstanceError(
            name, f"is paused; resume it: virsh -c lxc:/// resume {quoted}"
        )
    with guests.init_process(name) as init:
        session = _start(name, init, spec)
    try:
        yield session
    except BaseException:
        session.kill()
        raise
    finally:
        session.close()


def _start(name: str, init: Process, spec: CommandSpec) -> Session:
    try:
        with init.opened_pidfd() as pidfd:
            return _join(name, init, pidfd, spec)
    except (OSError, CommandFailedError) as err:
        if init.wait(0):
            raise NotRunningError(name) from err
        if isinstance(err, CommandFailedError):
            raise
        raise InstanceError(name, f"cannot be joined: {err}") from err


def _join(name: str, init: Process, pidfd: int, spec: CommandSpec) -> Session:
    groups = surroundings.find_groups(init)
    taken = surroundings.Surroundings.read(init)
    job = {**asdict(taken), **_encode(spec), "pidfd": pidfd}
    with _joiner(pidfd) as (process, control):
        for group in groups:
            cgroup_files.move(process.pid, group.path)
        _send(process, job)
        return _receive(name, control)


def _encode(spec: CommandSpec) -> dict[str, object]:
    """Return a command as bytes, for whatever locale the joiner has."""
    return {
        "command": [*map(os.fsencode, spec.command)],
        "user": None if spec.user is None else os.fsencode(spec.user),
        "workdir": None if spec.workdir is None else os.fsencode(spec.workdir),
        "environment": [
            (os.fsencode(key), os.fsencode(value))
            for key, value in spec.environment
        ],
        "terminal": spec.terminal,
        "term": os.fsencode(spec.term),
    }


@contextmanager
def _joiner(
    pidfd: int,
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Run a joiner, and be rid of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, ThreadPoolExecutor(1) as thread:
            process = thread.submit(_popen, pidfd, theirs).result()
        try:
            yield process, ours
        finally:
            process.kill()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_TIMEOUT)


def _popen(pidfd: int, control: socket.socket) -> subprocess.Popen[bytes]:
    """Start it with nothing to write to: in a container it could be traced.

    A process of the container may be one that has the capability for it on
    the host, and be able to open what another executes or has mapped.
    """
    # Only for this thread, which ends with that, and its child.
    namespaces.unshare_working_directory()
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount_api.set_attributes_of_all(_RESTRICTED)
    # It has to say what it is to become.
    mount_api.clear_attributes("/proc", mount_api.MOUNT_ATTR_RDONLY)
    return subprocess.Popen(
        programs.python_argv("lxc_userns.attach.joiner"),
        stdin=subprocess.PIPE,
        stdout=control.fileno(),
        stderr=subprocess.DEVNULL,
        pass_fds=(pidfd,),
        cwd="/",
        env=programs.ENVIRONMENT,
    )


def _send(process: subprocess.Popen[bytes], job: dict[str, object]) -> None:
    if process.stdin is None:
        raise ValueError("a process without a pipe")
    with suppress(BrokenPipeError), process.stdin as stream:
        stream.write(marshal.dumps(job))


def _receive(name: str, control: socket.socket) -> Session:
    """Wait until the command is executed.

    When it is, no one has the other end of the socket any more. What is said
    need not be the joiner's: it is in the container already.
    """
    session, failure = None, b""
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(
                control, joiner.LONGEST_MESSAGE, _MOST_FDS
            )
            if fds and session is None and data == joiner.STARTED:
                session = Session(fds[0], fds[1:])
                continue
            for fd in fds:
                os.close(fd)
            failure = failure or data
            if not data:
                break
        if session is None or failure:
            raise _to_error(name, failure)
    except BaseException:
        if session is not None:
            session.kill()
            session.close()
        raise
    return session


def _to_error(name: str, message: bytes) -> CommandFailedError:
    code, _, text = message.decode(errors="backslashreplace").partition(" ")
    codes = {
        str(each): each for each in (joiner.NOT_EXECUTABLE, joiner.NOT_FOUND)
    }
    return CommandFailedError(
        name,
        text or "the process that was to join it was killed",
        codes.get(code, joiner.OWN_FAILURE),
    )


def _read_pid(pidfd: int) -> int:
    """Return the process ID of a pidfd (``/proc/PID/fdinfo``)."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            if key == "Pid" and int(value) > 0:
                return int(value)
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
