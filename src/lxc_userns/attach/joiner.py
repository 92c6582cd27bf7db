# SPDX-License-Identifier: Apache-2.0
"""The process that becomes one of a container's, in an interpreter alone.

:mod:`~lxc_userns.attach.session` starts it, in the container's control groups
and with a mount namespace of its own in which nothing can be written to. Until
it has entered the container's namespaces it is the host's root and asks
nothing of the container; from then on it is the container's root, and neither
imports nor executes anything. It is not in the container's PID namespace: its
sibling is, which has no more to do than to execute the command.

It loads little, to start quickly.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import marshal
import os
import resource
import signal
import struct
import sys
import termios

from lxc_userns.attach import accounts
from lxc_userns.linux import (
    capabilities,
    clone3,
    mount_api,
    namespaces,
    openat2,
    prctl,
    pseudoterminals,
    session_keyrings,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Job = dict[str, Any]

#: Descriptors by which the session speaks with it.
JOB, CONTROL = 0, 1
OWN_FAILURE, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
#: Begins the message with the descriptors; all others are failures.
STARTED = b"started"
#: Bytes of a message.
LONGEST_MESSAGE = 4096
PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LABELS = ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")
_LAST_FD = 2**31 - 1


class _JoinError(Exception):
    """It goes no further; exit code, and one line that says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.message = f"{code} {text}".encode(errors="backslashreplace")


class _Step:
    """A step, which the error names if it fails."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, err: object, trace: object) -> None:
        if isinstance(err, OSError):
            why = err.strerror or str(err)
            raise _JoinError(OWN_FAILURE, f"{self._what}: {why}") from err


def main() -> None:
    """Read a job, become one of the container's, execute its command."""
    control = fcntl.fcntl(CONTROL, fcntl.F_DUPFD_CLOEXEC, 3)
    socket = _socket.socket(fileno=control)
    try:
        with open(JOB, "rb", closefd=False) as stream:
            job: Job = marshal.load(stream)  # noqa: S302 - our own process
        _join(job, socket)
    except _JoinError as err:
        socket.send(err.message[:LONGEST_MESSAGE])
    except Exception as err:
        text = f"{OWN_FAILURE} {type(err).__name__}: {err}"
        socket.send(text.encode(errors="replace")[:LONGEST_MESSAGE])
    os._exit(0)


def _join(job: Job, socket: _socket.socket) -> None:
    join_keyring = session_keyrings.load()
    _forget_the_host(job)
    with _Step("enter its namespaces"):
        namespaces.setns(job["pidfd"], job["kinds"])
    os.close(job["pidfd"])
    with _Step("become its root"):
        capabilities.drop_from_bounding_set(job["bounding"])
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    user = _become_user(job)
    capabilities.limit(job["bounding"])
    if job["no_new_privileges"]:
        prctl.set_no_new_privileges()
    with _Step("make a session keyring"):
        join_keyring()
    ours, theirs = _open_terminal(job) if job["terminal"] else _open_pipes()
    # It was allowed by the changes of IDs.
    prctl.forbid_tracing()
    with _Step("start a process in it"):
        sibling = clone3.fork_sibling()
    if sibling is None:
        _run(job, user, theirs, socket)
    fds = struct.pack(f"{len(ours) + 1}i", sibling, *ours)
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)
    socket.sendmsg([STARTED], [rights])


def _forget_the_host(job: Job) -> None:
    """Take on what needs the host's root and its /proc."""
    prctl.forbid_tracing()
    os.set_inheritable(job["pidfd"], False)
    with _Step("take on its limits and its security label"):
        _write_own("/proc/self/oom_score_adj", str(job["oom_score_adj"]))
        if job["label"]:
            is_apparmor = os.path.exists(_LABELS[0])
            _write_own(_LABELS[not is_apparmor], job["label"])
        # As "#! /proc/self/exe" would have it, this interpreter would be
        # executed in the container, with what is to be kept from it.
        mount_api.set_attributes_of_all(mount_api.MOUNT_ATTR_NOEXEC)
        for number, limits in enumerate(job["limits"]):
            resource.setrlimit(number, limits)
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(each, signal.SIG_DFL)
    # From now on the files are not the host's.
    sys.meta_path.clear()
    sys.path.clear()


def _write_own(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _become_user(job: Job) -> accounts.User:
    given = job["user"]
    try:
        user, groups = find_user(given, _read_file)
    except accounts.AccountError as err:
        shown = (given or b"").decode(errors="backslashreplace")
        raise _JoinError(OWN_FAILURE, f"user {shown!a}: {err}") from None
    with _Step(f"become user {user.uid}, group {user.gid}, of those mapped"):
        os.setgroups(groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    return user


def find_user(
    given: bytes | None, read: Callable[[str], bytes]
) -> tuple[accounts.User, list[int]]:
    """Find a user, and its supplementary groups.

    A number needs no file that can be read.

    :param given: ``U`` or ``U:G``, names or numbers; None for root.
    :param read: gives the contents of a file of the container.
    :raises AccountError: if there is none.
    """
    name, _, group_name = (b"0" if given is None else given).partition(b":")
    uid = accounts.parse_id(name)
    if uid is None:
        user = accounts.find_named(read("/etc/passwd"), name)
    else:
        user = _find_by_number(uid, read)
    if group_name:
        gid = accounts.parse_id(group_name)
        if gid is None:
            gid = accounts.find_group(read("/etc/group"), group_name)
        user.gid = gid
        return user, [gid]
    groups = [user.gid]
    if uid is None:
        groups += accounts.find_memberships(read("/etc/group"), name)
    return user, groups


def _find_by_number(uid: int, read: Callable[[str], bytes]) -> accounts.User:
    try:
        user = accounts.find_numbered(read("/etc/passwd"), uid)
    except accounts.AccountError:
        user = None
    if user is None and uid == 0:
        return accounts.User(b"root", 0, 0, b"/root")
    return user or accounts.User(None, uid, 0)


def _read_file(path: str) -> bytes:
    """Read a file of the container, by its own root."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2.open_regular(root, path)
    except FileNotFoundError:
        return b""
    except OSError as err:
        raise accounts.AccountError(f"{path}: {err.strerror}") from None
    finally:
        os.close(root)
    try:
        data = b""
        while more := os.read(fd, accounts.LONGEST_FILE + 1 - len(data)):
            data += more
    except OSError as err:
        raise accounts.AccountError(f"{path}: {err.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > accounts.LONGEST_FILE:
        limit = accounts.LONGEST_FILE >> 20
        raise accounts.AccountError(f"{path}: has more than {limit} MiB")
    return data


def _open_pipes() -> tuple[list[int], list[int]]:
    """Make pipes that belong to the user, who may open them by /proc."""
    with _Step("make pipes"):
        (read0, write0), (read1, write1), (read2, write2) = (
            os.pipe() for _ in range(3)
        )
    return [write0, read1, read2], [read0, write1, write2]


def _open_terminal(job: Job) -> tuple[list[int], list[int]]:
    """Make a pseudoterminal of the container's."""
    with _Step("make a terminal"):
        master, slave = pseudoterminals.open_pair(*job["terminal"])
    return [master], [slave] * 3


def _run(
    job: Job, user: accounts.User, streams: list[int], socket: _socket.socket
) -> None:
    """Be in the container, and execute the command; without return."""
    try:
        os.setsid()
        if job["terminal"]:
            fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        control = socket.fileno()
        # Before the container's paths are followed: there is nothing that
        # "/proc/self/fd/N" could lead to.
        os.closerange(3, control)
        os.closerange(control + 1, _LAST_FD)
        _change_directory(job["workdir"], user.home)
        environment = make_environment(user, job)
        command = job["command"]
        if command:
            _execute(command[0], command, environment)
        login = b"-" + user.shell.rpartition(b"/")[2]
        _execute(user.shell, [login], environment)
    except _JoinError as err:
        socket.send(err.message[:LONGEST_MESSAGE])
    except Exception as err:
        text = f"{OWN_FAILURE} {type(err).__name__}: {err}"
        socket.send(text.encode(errors="replace")[:LONGEST_MESSAGE])
    os._exit(OWN_FAILURE)


def _change_directory(given: bytes | None, home: bytes) -> None:
    if given is None:
        try:
            os.chdir(home)
        except OSError:
            os.chdir("/")
        return
    with _Step(f"--workdir {given.decode(errors='backslashreplace')!a}"):
        os.chdir(given)


def make_environment(user: accounts.User, job: Job) -> dict[bytes, bytes]:
    """Return the environment of a command; nothing of the host's is in it.

    :param job: ``term`` and ``environment`` of it count.
    """
    name = user.name or str(user.uid).encode()
    return {
        b"PATH": PATH,
        b"HOME": user.home,
        b"USER": name,
        b"LOGNAME": name,
        b"SHELL": user.shell,
        b"container": b"lxc-libvirt",
        **({b"TERM": job["term"]} if job["terminal"] else {}),
        **dict(job["environment"]),
    }


def _execute(
    name: bytes, arguments: list[bytes], environment: dict[bytes, bytes]
) -> None:
    """Execute a program, found in ``PATH`` as :manpage:`execvp(3)` does.

    :raises _JoinError: always, if it returns.
    """
    failure = OSError(errno.ENOENT, "not found")
    for path in _candidates(name, environment.get(b"PATH", PATH)):
        try:
            os.execve(path, arguments, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as err:
            failure = err
            if err.errno != errno.EACCES:
                break
    is_missing = failure.errno == errno.ENOENT
    shown = name.decode(errors="backslashreplace")
    raise _JoinError(
        NOT_FOUND if is_missing else NOT_EXECUTABLE,
        f"{shown!a}: {failure.strerror}",
    )


def _candidates(name: bytes, path: bytes) -> Iterator[bytes]:
    if b"/" in name:
        yield name
        return
    for directory in path.split(b":"):
        yield (directory or b".") + b"/" + name
