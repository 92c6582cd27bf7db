# SPDX-License-Identifier: Apache-2.0
"""Processes, by ``/proc`` (:manpage:`proc(5)`)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Self

from lxc_userns.linux import mounts, namespaces, polling
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.linux.fd import owned

#: Rows of ``uid_map``: first ID inside, first ID outside, number of IDs.
Rows = tuple[tuple[int, int, int], ...]

#: Characters of a file in ``/proc`` that are of interest.
_LONGEST = 65536
#: Those of any ``status``, whose longest line has 65536 groups.
_LONGEST_STATUS = 1 << 20
#: Where a label is: AppArmor has a file of its own beside another module.
_LABELS = ("attr/apparmor/current", "attr/current")
_LONGEST_LABEL = 1 << 12
#: Seconds from which on poll(2) cannot wait.
_TOO_LONG = 2**31 / 1000
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


class Process:
    """A process held by its directory in ``/proc``.

    The directory stands for this very process: once it has ended, every read
    fails, also when another process has got its number.

    :param pid: process ID, or ``self``.
    :raises ProcessLookupError: now or at any read, if the process has ended.
    """

    def __init__(self, pid: int | str) -> None:
        self.pid = pid
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        with _or_ended():
            self._fd = os.open(f"/proc/{pid}", flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def parent(self) -> int:
        """Process ID of the parent."""
        return int(self._statistics()[4 - 3])

    @property
    def start_time(self) -> int:
        """When it was started, in clock ticks since the host's boot."""
        return int(self._statistics()[22 - 3])

    @property
    def is_first(self) -> bool:
        """Return whether it is process 1 of a namespace below the caller's."""
        (numbers,) = self._status("status", "NSpid")
        return len(numbers) > 1 and numbers[-1] == "1"

    @property
    def uid_map(self) -> Rows:
        """Return the rows of ``uid_map`` as the caller's namespace sees it."""
        return self._rows("uid_map")

    @property
    def gid_map(self) -> Rows:
        """Return the rows of ``gid_map`` as the caller's namespace sees it."""
        return self._rows("gid_map")

    @property
    def user_namespace(self) -> tuple[int, int]:
        """Identity of the user namespace: device and inode."""
        return self.namespace("user")

    def opened_namespace(self, kind: str) -> AbstractContextManager[int]:
        """Open a namespace of it.

        :param kind: the kernel's name, as ``user`` or ``net``.
        """
        return self._opened(f"ns/{kind}", os.O_RDONLY)

    def open_root(self) -> AbstractContextManager[int]:
        """Open its root directory with ``O_PATH``; nothing in it is asked."""
        return self._opened("root", os.O_PATH)

    def namespace(self, kind: str) -> tuple[int, int]:
        """Return the identity of a namespace: device and inode."""
        return self._identity(f"ns/{kind}")

    def namespace_owner(self, kind: str) -> tuple[int, int]:
        """Return the identity of the user namespace that owns another."""
        with self.opened_namespace(kind) as fd:
            return namespaces.owner(fd)

    @property
    def capabilities(self) -> Iterator[int]:
        """Yield those of each of its threads, which have them by themselves.

        All that are in any set, with those that can be regained, as bits; see
        :manpage:`capabilities(7)`.

        :raises BoundExceededError: if a thread is in so many groups that what
            the kernel tells of it is longer than 65536 characters.
        """
        with (
            self._opened("task", os.O_RDONLY | os.O_DIRECTORY) as fd,
            os.scandir(fd) as threads,
        ):
            for thread in threads:
                with suppress(ProcessLookupError):
                    yield self._capabilities(f"task/{thread.name}/status")

    def _capabilities(self, status: str) -> int:
        found = 0
        for values in self._status(status, *_CAPABILITIES, limit=_LONGEST):
            found |= int(values[0], 16)
        return found

    @property
    def security_label(self) -> str:
        """Label that the kernel's security module has for it.

        See :manpage:`proc_pid_attr(5)`: for AppArmor its profile and in which
        mode that is, for SELinux its context. Empty if there is no module.
        """
        for name in _LABELS:
            # Without a module there is no file, or it cannot be read.
            with suppress(OSError), self._opened(name, os.O_RDONLY) as fd:
                text = os.read(fd, _LONGEST_LABEL)
                return text.decode(errors="replace").strip("\0\n")
        _ = self.parent  # Or it has ended.
        return ""

    @property
    def mounts(self) -> Iterator[mounts.Mount]:
        """Mounts of the process, with mount points as it sees them.

        :raises BoundExceededError: if that is unreasonably much.
        """
        with (
            self._opened("mountinfo", os.O_RDONLY) as fd,
            open(fd, "rb", closefd=False) as stream,
        ):
            yield from mounts.parse_all(stream)

    @contextmanager
    def opened_parent(self) -> Iterator[Process]:
        """Hold its parent, which is certainly that."""
        with Process(self.parent) as parent:
            # The number may have become another's in between.
            if self.parent != int(parent.pid):
                raise ProcessLookupError(f"parent of {self.pid} has changed")
            yield parent

    @property
    def cgroups(self) -> dict[str, str]:
        """Its control groups (:manpage:`cgroups(7)`).

        :returns: paths in the hierarchies, by the controllers of each, with
            commas between; the empty text is for version 2.
        """
        rows = (line.split(":", 2) for line in self._lines("cgroup"))
        return {controllers: path for _, controllers, path in rows}

    def variable(self, name: str) -> str | None:
        """Return an environment variable that it was started with.

        :returns: None if it has none of this name, among the first 65536
            characters of all.
        """
        for each in self._read("environ").split("\0"):
            key, equals, value = each.partition("=")
            if equals and key == name:
                return value
        return None

    @property
    def executable(self) -> tuple[int, int]:
        """Identity of the file that it executes: device and inode."""
        return self._identity("exe")

    @property
    def program(self) -> str:
        """Base name of the program that it runs; its own doing, no proof."""
        with _or_ended():
            return os.path.basename(os.readlink("exe", dir_fd=self._fd))

    @property
    def command(self) -> str:
        """Base name by which it was called; its own doing, no proof."""
        return os.path.basename(self._read("cmdline").split("\0")[0])

    @property
    def oom_score_adj(self) -> int:
        """Readiness of the kernel to kill it for want of memory."""
        return int(self._read("oom_score_adj"))

    def status(self, *fields: str) -> list[str]:
        """Return the first value of fields of ``status``.

        See :manpage:`proc_pid_status(5)`.
        """
        return [values[0] for values in self._status("status", *fields)]

    def option(self, name: str) -> str | None:
        """Return the argument after an option that it was called with.

        Its own doing, no proof; None if it has none of this name.
        """
        arguments = iter(self._read("cmdline").split("\0"))
        return next(arguments, None) if name in arguments else None

    @property
    def name(self) -> str:
        """Name of the process, at most 15 bytes; its own choice, no proof."""
        return self._read("comm").rstrip("\n")

    @contextmanager
    def opened_file(self, number: int) -> Iterator[tuple[int, str]]:
        """Hold with ``O_PATH`` what it has open, and its name.

        :param number: the descriptor in that process.
        :raises ProcessLookupError: if it has none of this number.
        """
        name = f"fd/{number}"
        with self._opened(name, os.O_PATH) as fd:
            yield fd, os.readlink(f"/proc/self/fd/{fd}")

    def send_signal(self, number: int) -> None:
        """Send it a signal, and never another process."""
        with self.opened_pidfd() as pidfd:
            signal.pidfd_send_signal(pidfd, number)

    def kill(self, timeout: float) -> bool:
        """Kill it; the first of a PID namespace ends after all others there.

        :param timeout: seconds to wait for its end.
        :returns: whether it has ended.
        """
        with self.opened_pidfd() as pidfd:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return _has_ended(pidfd, timeout)

    def wait(self, timeout: float | None) -> bool:
        """Wait for its end, and tell whether it has ended.

        :param timeout: seconds to wait; None, or more than some weeks, for as
            long as it takes.
        """
        try:
            with self.opened_pidfd() as pidfd:
                return _has_ended(pidfd, timeout)
        except ProcessLookupError:
            return True  # Its parent has waited for it.

    @contextmanager
    def opened_pidfd(self) -> Iterator[int]:
        """Hold it by a pidfd (:manpage:`pidfd_open(2)`)."""
        with owned(os.pidfd_open(int(self.pid))) as pidfd:
            # While this one is there, the number is its own.
            self._statistics()
            yield pidfd

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        with _or_ended():
            fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=self._fd)
        with owned(fd):
            yield fd

    def _identity(self, name: str) -> tuple[int, int]:
        with _or_ended():
            status = os.stat(name, dir_fd=self._fd)
        return status.st_dev, status.st_ino

    def _rows(self, name: str) -> Rows:
        lines = self._lines(name)
        if lines == [""]:
            return ()
        return tuple(
            (int(inside), int(outside), int(count))
            for inside, outside, count in map(str.split, lines)
        )

    def _statistics(self) -> list[str]:
        """Read ``stat`` from its third field on.

        The second is the name, which is its own doing and can have any
        character (:manpage:`proc_pid_stat(5)`).
        """
        return self._read("stat").rpartition(")")[2].split()

    def _status(
        self, name: str, *fields: str, limit: int = _LONGEST_STATUS
    ) -> list[list[str]]:
        """Read fields of ``status``.

        :param name: the file, of the process or of a thread.
        :param limit: number of characters that are read.
        :raises BoundExceededError: if it has more, and a field is not among
            these.
        """
        text = self._read(name, limit)
        # The first line is its name, which is its own doing; the last one can
        # have been cut off, and ends with a line feed if it was not.
        rows = (line.partition(":") for line in text.split("\n")[1:-1])
        found = {key: value.split() for key, _, value in rows if key in fields}
        if len(found) == len(fields):
            return [found[field] for field in fields]
        if len(text) == limit:
            raise BoundExceededError(
                f"process {self.pid} is in so many groups that its status has "
                f"more than {limit} characters"
            )
        raise ProcessLookupError(f"no {fields} in status of {self.pid}")

    def _lines(self, name: str) -> list[str]:
        # Not splitlines(): what a process calls itself can have characters
        # that some take for the end of a line; the kernel escapes the one.
        return self._read(name).rstrip("\n").split("\n")

    def _read(self, name: str, limit: int = _LONGEST) -> str:
        with (
            _or_ended(),
            open(
                os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd),
                encoding="utf-8",
                errors="replace",
                newline="\n",
            ) as stream,
        ):
            # What it calls its arguments can be as large as it likes.
            return stream.read(limit)


@contextmanager
def _or_ended() -> Iterator[None]:
    """Raise ProcessLookupError for what tells that a process has ended."""
    try:
        yield
    except OSError as err:
        # EINVAL is for maps of one that has just ended, opened or read.
        if err.errno in (errno.ENOENT, errno.EINVAL, errno.ESRCH):
            raise ProcessLookupError(*err.args) from None
        raise


def _has_ended(pidfd: int, timeout: float | None) -> bool:
    if timeout is not None and timeout >= _TOO_LONG:
        timeout = None
    return bool(polling.wait(pidfd, timeout=timeout))
