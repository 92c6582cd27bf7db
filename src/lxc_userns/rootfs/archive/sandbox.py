# SPDX-License-Identifier: Apache-2.0
"""The processes around tar; :mod:`~lxc_userns.rootfs.archive.tar` starts them.

A *supervisor*, which is the host's root, makes new mount and PID namespaces
and every mount read-only. Its child, the first process in them, joins the user
namespace of the ID maps and becomes its root; it runs tar, and what
decompresses for it. One directory can be written to: tar's working directory,
on a mount that hangs nowhere, so that not even ``..`` leads out of it.

When the first process ends the kernel kills the others, and so does the
supervisor when its parent has died. It loads little, to start quickly.
"""

from __future__ import annotations

import os
import resource
import signal
import threading

from lxc_userns.linux import (
    mount_api,
    namespaces,
    pipes,
    polling,
    prctl,
    programs,
)
from lxc_userns.rootfs.archive import meter
from lxc_userns.rootfs.archive.tar_listing import Listing
from lxc_userns.rootfs.shifting import ipc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Work = Callable[[dict[str, Any]], dict[str, Any]]
    Confine = Callable[[], None]
    Feed = Callable[[bytes], int]

_RESTRICTED = (
    mount_api.MOUNT_ATTR_RDONLY
    | mount_api.MOUNT_ATTR_NOSUID
    | mount_api.MOUNT_ATTR_NODEV
)
#: Python ignores these, and what it executes would inherit that.
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
#: The descriptors by which a parent speaks with the supervisor.
_LIFELINE, _RESULT = 0, 1
#: Bytes looked at once; more than any pipe has.
_CHUNK = pipes.SIZE
#: Bytes of what tar prints that are read at once, as much as the pipe holds:
#: some thousand lines.
_LISTED = 1 << 16


class Watch:
    """Looks for strings in a stream.

    :param strings: what to look for.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        #: Those that were found.
        self.found: set[bytes] = set()
        self._strings = strings
        # Before what is read, the end of what was: a string may be cut.
        self._kept = max(map(len, strings))
        self._buffer = bytearray(self._kept + _CHUNK)
        #: Where to read to.
        self.room = memoryview(self._buffer)[self._kept :]

    def look(self, size: int) -> None:
        """Look at what was read.

        :param size: number of bytes.
        """
        end = self._kept + size
        for each in self._strings:
            if each not in self.found and self._buffer.find(each, 0, end) >= 0:
                self.found.add(each)
        self._buffer[: self._kept] = self._buffer[end - self._kept : end]


def pass_file(source: int, sink: int, watch: Watch) -> Iterator[int]:
    """Pass on a file to a pipe.

    :returns: how many bytes at a time.
    :raises BrokenPipeError: if no one reads from the pipe.
    """
    while size := os.readv(source, [watch.room]):
        watch.look(size)
        rest = watch.room[:size]
        while rest:
            rest = rest[os.write(sink, rest) :]
        yield size


def pass_pipe(source: int, sink: int, watch: Watch) -> Iterator[int]:
    """Yield the same for what comes through another pipe, until that ends."""
    while size := pipes.tee(source, sink):
        watch.look(os.readv(source, [watch.room[:size]]))
        yield size


class Child:
    """A program that was started.

    :param command: its path, and its arguments, its name among them.
    :param stdin: descriptor of its standard input.
    :param stdout: descriptor of its standard output.
    :param memory: bytes of address space that it may have.
    """

    def __init__(
        self,
        command: tuple[str, tuple[str, ...]],
        stdin: int,
        stdout: int,
        memory: int,
    ) -> None:
        # What is executed has the limit from its beginning.
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
        try:
            self._pid = os.posix_spawn(
                *command,
                programs.ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, stdout, 1),
                ],
                setsigdef=_SIGNALS,
            )
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    def send(self, number: int) -> None:
        """Send it a signal; it has to be waited for yet."""
        os.kill(self._pid, number)

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the signal's number."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


class Extraction:
    """tar at work, and what decompresses for it.

    :param job: what :mod:`~lxc_userns.rootfs.archive.tar` sends.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.listing = Listing()
        self._watch = Watch(job["strings"])
        self._children: list[Child] = []
        self._read = 0
        self._failure: OSError | MemoryError | None = None

    def run(self) -> dict[str, Any]:
        """Extract it."""
        return self.read_through("tar", self.listing.feed)

    def read_through(self, name: str, feed: Feed) -> dict[str, Any]:
        """Let both come to their ends, or to that of what they may take.

        :param name: that of tar's command line in the job.
        :param feed: takes what tar prints; returns the number of lines.
        :returns: the result.
        """
        self._children, self._read = [], 0
        self._meter = meter.Meter(
            self.job["view"],
            self.job["limits"],
            self._kill,
            self._while_stopped,
        )
        source = os.dup(self.job["archive"])
        pass_on = pass_file
        if self.job["decompressor"]:
            compressed, source = source, self._start("decompressor", source)
            os.close(compressed)
            pass_on = pass_pipe
        fed, sink = pipes.make_wide()
        os.fchdir(self.job["view"])
        listed = self._start(name, fed)
        os.close(fed)
        listener = threading.Thread(target=self._listen, args=(listed, feed))
        listener.start()
        try:
            # tar reads to the end of the pipe, whatever it makes of that.
            for size in pass_on(source, sink, self._watch):
                self._read += size
                self._meter.add(meter.BYTES, size)
        except BrokenPipeError:
            pass  # tar has ended, and will have said why.
        os.close(sink)
        os.close(source)
        listener.join()
        if self._failure is not None:
            raise self._failure
        codes = [child.wait() for child in self._children]
        return {
            "tar": codes[-1],
            "decompressor": sum(codes[:-1]),
            "read": self._read,
            "members": self._meter.used(meter.INODES),
            "printed": self.listing.end,
            "whiteouts": self.listing.whiteouts,
            "whiteout_files": self.listing.whiteout_files,
            "found": list(self._watch.found),
            "exceeded": self._meter.exceeded,
        }

    def _start(self, name: str, stdin: int) -> int:
        """Start one of them; where to read what it writes."""
        # What tar prints is not to run ahead of who counts it.
        make = pipes.make_wide if name == "decompressor" else os.pipe
        output, end = make()
        child = Child(self.job[name], stdin, end, self.job["memory"])
        self._children.append(child)
        os.close(end)
        return output

    def _listen(self, listed: int, feed: Feed) -> None:
        """Count what tar makes or lists: it prints a line for each."""
        try:
            while data := os.read(listed, _LISTED):
                self._meter.add(meter.INODES, feed(data))
        except (OSError, MemoryError) as err:
            # What is not counted does not go on.
            self._failure = err
            self._kill()
        os.close(listed)

    def _kill(self) -> None:
        for child in self._children:
            child.send(signal.SIGKILL)

    def _while_stopped(self, measure: Callable[[], int]) -> int:
        tar = self._children[-1]
        tar.send(signal.SIGSTOP)
        try:
            return measure()
        finally:
            tar.send(signal.SIGCONT)


def _enter(job: dict[str, Any]) -> None:
    """Be root of the user namespace."""
    os.setgroups([])
    namespaces.setns(job["namespace"], namespaces.CLONE_NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl.set_parent_death_signal(signal.SIGKILL)
    prctl.set_no_new_privileges()
    # For directories that an archive does not have but its members need.
    os.umask(0o022)


def _failure(err: OSError) -> dict[str, Any]:
    return {"error": (err.errno, err.strerror or str(err))}


def _run_as_pid1(job: dict[str, Any], work: Work) -> None:
    try:
        _enter(job)
        result = work(job)
    except OSError as err:
        result = _failure(err)
    ipc.send_plain(_RESULT, result)


def _start_first(
    job: dict[str, Any], work: Work, confine: Confine | None
) -> int:
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID)
    mount_api.set_attributes_of_all(_RESTRICTED)
    if confine is not None:
        confine()
        mount_api.set_attributes_of_all(_RESTRICTED)
    # This process has one thread and nothing but this to do.
    child = os.fork()
    if child == 0:
        try:
            _run_as_pid1(job, work)
        finally:
            os._exit(0)
    return child


def _keep(child: int) -> None:
    """Wait until a child ends, and kill it if the parent dies before."""
    fd = os.pidfd_open(child)
    if _LIFELINE in polling.wait(fd, _LIFELINE):
        os.kill(child, signal.SIGKILL)
    # When the first process is gone, all in its PID namespace are.
    os.waitpid(child, 0)


def keep(work: Work, confine: Confine | None = None) -> None:
    """Read a job from standard input, do it, write to standard output.

    :param work: does it, as the first process in the sandbox; returns the
        result.
    :param confine: makes the sandbox narrower: called by the host's root, in
        the new mount namespace.
    """
    try:
        job: dict[str, Any] = ipc.receive(_LIFELINE)
        for fd in job["descriptors"]:
            os.set_inheritable(fd, False)
        _keep(_start_first(job, work, confine))
    except EOFError:
        pass  # The parent is gone already.
    except OSError as err:
        ipc.send_plain(_RESULT, _failure(err))
    os._exit(0)


def main() -> None:
    """Keep an extraction."""
    keep(lambda job: Extraction(job).run())
