# SPDX-License-Identifier: Apache-2.0
"""What ``/proc`` says about a process (:manpage:`proc(5)`)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from lxc_userns.linux import mounts, namespaces

#: Rows of ``uid_map``: first ID inside, first ID outside, number of IDs.
Rows = tuple[tuple[int, int, int], ...]


#: Characters of a file in ``/proc`` that are of interest.
_LONGEST = 65536


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
        try:
            self._fd = os.open(f"/proc/{pid}", flags)
        except FileNotFoundError as err:
            raise ProcessLookupError(*err.args) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    @property
    def parent(self) -> int:
        """Process ID of the parent."""
        return int(self._status("PPid")[0])

    @property
    def start_time(self) -> int:
        """When it was started, in clock ticks since the host's boot."""
        # After the name, which is its own doing and may have any character
        # (proc_pid_stat(5)): from the third field on, this is the 22nd.
        return int(self._read("stat").rpartition(")")[2].split()[22 - 3])

    @property
    def is_first(self) -> bool:
        """Whether it is process 1 of a PID namespace below the caller's."""
        numbers = self._status("NSpid")
        return len(numbers) > 1 and numbers[-1] == "1"

    @property
    def uid_map(self) -> Rows:
        """The rows of ``uid_map``, as the caller's user namespace sees it."""
        return self._rows("uid_map")

    @property
    def gid_map(self) -> Rows:
        """The rows of ``gid_map``, as the caller's user namespace sees it."""
        return self._rows("gid_map")

    @property
    def user_namespace(self) -> tuple[int, int]:
        """Identity of the user namespace: device and inode."""
        return self.namespace("user")

    @contextmanager
    def opened_namespace(self, kind: str) -> Iterator[int]:
        """Open a namespace of it.

        :param kind: the kernel's name, as ``user`` or ``net``.
        """
        with self._opened(f"ns/{kind}", os.O_RDONLY) as fd:
            yield fd

    @contextmanager
    def opened_root(self) -> Iterator[int]:
        """Open its root directory with ``O_PATH``; nothing in it is asked."""
        with self._opened("root", os.O_PATH) as fd:
            yield fd

    def namespace(self, kind: str) -> tuple[int, int]:
        """Identity of a namespace of it: device and inode."""
        return self._identity(f"ns/{kind}")

    def namespace_owner(self, kind: str) -> tuple[int, int]:
        """Identity of the user namespace that owns a namespace of it."""
        with self.opened_namespace(kind) as fd:
            return namespaces.owner(fd)

    @property
    def capabilities(self) -> int:
        """All that are in any of its sets, with those it may regain, as bits.

        See :manpage:`capabilities(7)`.
        """
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        found = 0
        for name in names:
            found |= int(self._status(name)[0], 16)
        return found

    @property
    def mounts(self) -> list[mounts.Mount]:
        """What is mounted for it, with points as it sees them.

        :raises OSError: with ``E2BIG`` if that is unreasonably much.
        """
        with (
            self._opened("mountinfo", os.O_RDONLY) as fd,
            open(fd, "rb", closefd=False) as stream,
        ):
            return [*mounts.parse_all(stream)]

    @contextmanager
    def opened_parent(self) -> Iterator[Process]:
        """Hold its parent, which is certainly that."""
        with Process(self.parent) as parent:
            # The number may have become another's in between.
            if self.parent != int(parent.pid):
                raise ProcessLookupError(f"parent of {self.pid} has changed")
            yield parent

    @property
    def fellows(self) -> Iterator[Process]:
        """Processes in its PID and user namespace, itself included, held."""
        own = self.namespace("pid"), self.namespace("user")
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with (
                suppress(ProcessLookupError, PermissionError),
                Process(int(name)) as process,
            ):
                theirs = process.namespace("pid"), process.namespace("user")
                if theirs == own:
                    yield process

    @property
    def cgroups(self) -> dict[str, str]:
        """Its control groups (:manpage:`cgroups(7)`).

        :returns: paths in the hierarchies, by the controllers of each, with
            commas between; the empty text is for version 2.
        """
        rows = (line.split(":", 2) for line in self._lines("cgroup"))
        return {controllers: path for _, controllers, path in rows}

    @property
    def executable(self) -> tuple[int, int]:
        """Identity of the file that it executes: device and inode."""
        return self._identity("exe")

    @property
    def program(self) -> str:
        """Base name of the program that it runs; its own doing, no proof."""
        try:
            return os.path.basename(os.readlink("exe", dir_fd=self._fd))
        except FileNotFoundError as err:
            raise ProcessLookupError(*err.args) from None

    @property
    def command(self) -> str:
        """Base name by which it was called; its own doing, no proof."""
        return os.path.basename(self._read("cmdline").split("\0")[0])

    @property
    def name(self) -> str:
        """What it is called, at most 15 bytes; its own doing, no proof."""
        return self._read("comm").rstrip("\n")

    def send_signal(self, number: int) -> None:
        """Send it a signal, and never another process."""
        pidfd = os.pidfd_open(int(self.pid))
        try:
            # While this one is there, the number is its own.
            self._status("PPid")
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        try:
            fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.EINVAL, errno.ESRCH):
                raise
            raise ProcessLookupError(*err.args) from None
        try:
            yield fd
        finally:
            os.close(fd)

    def _identity(self, name: str) -> tuple[int, int]:
        try:
            status = os.stat(name, dir_fd=self._fd)
        except FileNotFoundError as err:
            raise ProcessLookupError(*err.args) from None
        return status.st_dev, status.st_ino

    def _rows(self, name: str) -> Rows:
        lines = self._lines(name)
        if lines == [""]:
            return ()
        return tuple(
            (int(inside), int(outside), int(count))
            for inside, outside, count in map(str.split, lines)
        )

    def _status(self, field: str) -> list[str]:
        # The first line is its name, which is its own doing.
        for line in self._lines("status")[1:]:
            key, _, value = line.partition(":")
            if key == field:
                return value.split()
        raise ProcessLookupError(f"no {field} in status of {self.pid}")

    def _lines(self, name: str) -> list[str]:
        # Not splitlines(): what a process calls itself can have characters
        # that some take for the end of a line; the kernel escapes the one.
        return self._read(name).rstrip("\n").split("\n")

    def _read(self, name: str) -> str:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as err:
            # EINVAL is for maps of one that has just ended.
            if err.errno in (errno.ENOENT, errno.EINVAL, errno.ESRCH):
                raise ProcessLookupError(*err.args) from None
            raise
        with open(
            fd, encoding="utf-8", errors="replace", newline="\n"
        ) as stream:
            try:
                # What it calls its arguments can be as large as it likes.
                return stream.read(_LONGEST)
            except OSError as err:
                # Of maps when it has just ended.
                if err.errno in (errno.EINVAL, errno.ESRCH):
                    raise ProcessLookupError(*err.args) from None
                raise


def children(pid: int) -> Iterator[int]:
    """Process IDs of the children of a process.

    ``/proc/PID/task/TID/children`` would be cheaper, but leaves some out
    while others end (:manpage:`proc_pid_children(5)`).

    :param pid: process ID of the parent.
    """
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with Process(int(name)) as process:
                    parent = process.parent
            except ProcessLookupError:
                continue
            if parent == pid:
                yield int(name)


def with_other_maps() -> Iterator[Process]:
    """Processes whose ID maps are not the caller's, held.

    At least one of each user namespace; each is let go when the next one is
    asked for. A namespace in which nobody runs, that is kept by a mount or a
    descriptor, is not seen.
    """
    with Process("self") as this:
        maps = this.uid_map, this.gid_map
    seen = {_user_namespace("self")}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            namespace = _user_namespace(name)
            if namespace is not None and namespace in seen:
                continue
            with Process(int(name)) as process:
                found = process.uid_map, process.gid_map
                # Not before: it may have ended, and others be there.
                if namespace == _user_namespace(name):
                    seen.add(namespace)
                if found != maps:
                    yield process


def _user_namespace(pid: str) -> str | None:
    """What the kernel calls a process's user namespace.

    None if it does not tell: root without all capabilities may not trace
    every process.
    """
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except PermissionError:
        return None
    except FileNotFoundError as err:
        raise ProcessLookupError(*err.args) from None
