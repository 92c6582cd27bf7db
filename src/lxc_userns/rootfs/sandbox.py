# SPDX-License-Identifier: Apache-2.0
"""The processes around tar; :mod:`~lxc_userns.rootfs.extraction` starts them.

A *keeper*, which is the host's root, makes new mount and PID namespaces and
every mount read-only. Its child, the first process in them, joins the user
namespace of the ID maps and becomes its root; it runs tar, and what
decompresses for it. One directory can be written to: tar's working directory,
on a mount that hangs nowhere, so that not even ``..`` leads out of it.

When the first process ends the kernel kills the others, and so does the
keeper when its parent has died. It loads little, to start quickly.
"""

from __future__ import annotations

import os
import signal

from lxc_userns.linux import namespaces, pipes, prctl, trees
from lxc_userns.rootfs import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Environment of every program that has to do with tar.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

_RESTRICTED = (
    trees.MOUNT_ATTR_RDONLY | trees.MOUNT_ATTR_NOSUID | trees.MOUNT_ATTR_NODEV
)
#: Python ignores these, and what it executes would inherit that.
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
#: The descriptors by which a parent speaks with the keeper.
_LIFE, _RESULT = 0, 1
#: Bytes looked at once; more than any pipe has.
_CHUNK = pipes.SIZE


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


def watch_file(fd: int, watch: Watch) -> None:
    """Read a file that somebody else reads too, with the same descriptor."""
    offset = 0
    while size := os.preadv(fd, [watch.room], offset):
        watch.look(size)
        offset += size


def watch_pipe(source: int, sink: int, watch: Watch) -> None:
    """Pass on what comes through a pipe, until one of its ends is closed."""
    try:
        while size := pipes.tee(source, sink):
            watch.look(os.readv(source, [watch.room[:size]]))
    except BrokenPipeError:
        pass  # tar has ended, and will have said why.


class _Child:
    """A program that was started.

    :param command: its path, and its arguments, its name among them.
    :param stdin: descriptor of its standard input.
    :param stdout: descriptor of its standard output.
    """

    def __init__(
        self, command: tuple[str, tuple[str, ...]], stdin: int, stdout: int
    ) -> None:
        self._pid = os.posix_spawn(
            *command,
            ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
            ],
            setsigdef=_SIGNALS,
        )

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the signal's number."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def _extract(job: dict[str, Any]) -> dict[str, Any]:
    """Run tar, and what decompresses for it, to their ends."""
    watch = Watch(job["strings"])
    archive, printed = job["archive"], os.memfd_create("printed")
    code = 0
    if job["decompressor"]:
        (source, unpacked), (fed, sink) = pipes.make_wide(), pipes.make_wide()
        decompressor = _Child(job["decompressor"], archive, unpacked)
        os.close(unpacked)
        os.fchdir(job["view"])
        tar = _Child(job["tar"], fed, printed)
        os.close(fed)
        watch_pipe(source, sink, watch)
        os.close(source)
        os.close(sink)
        code = decompressor.wait()
    else:
        os.fchdir(job["view"])
        tar = _Child(job["tar"], archive, printed)
        watch_file(archive, watch)
    return {
        "tar": tar.wait(),
        "decompressor": code,
        "printed": os.pread(printed, _CHUNK, 0),
        "found": list(watch.found),
    }


def _enter(job: dict[str, Any]) -> None:
    """Be root of the user namespace."""
    os.setgroups([])
    namespaces.join(job["namespace"], namespaces.CLONE_NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl.set_parent_death_signal(signal.SIGKILL)
    prctl.set_no_new_privileges()
    # For directories that an archive does not have but its members need.
    os.umask(0o022)


def _failure(err: OSError) -> dict[str, Any]:
    return {"error": (err.errno, err.strerror or str(err))}


def _be_first(job: dict[str, Any]) -> None:
    try:
        _enter(job)
        result = _extract(job)
    except OSError as err:
        result = _failure(err)
    channel.send_plain(_RESULT, result)


def _start_first(job: dict[str, Any]) -> int:
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID)
    trees.set_attributes_of_all(_RESTRICTED)
    # This process has one thread and nothing but this to do.
    child = os.fork()
    if child == 0:
        try:
            _be_first(job)
        finally:
            os._exit(0)
    return child


def _keep(child: int) -> None:
    """Wait until a child ends, and kill it if the parent dies before."""
    fd = os.pidfd_open(child)
    if _LIFE in channel.wait(fd, _LIFE):
        os.kill(child, signal.SIGKILL)
    # When the first process is gone, all in its PID namespace are.
    os.waitpid(child, 0)


def main() -> None:
    """Read a job from standard input, do it, write to standard output."""
    try:
        job: dict[str, Any] = channel.receive(_LIFE)
        for fd in job["descriptors"]:
            os.set_inheritable(fd, False)
        _keep(_start_first(job))
    except EOFError:
        pass  # The parent is gone already.
    except OSError as err:
        channel.send_plain(_RESULT, _failure(err))
    os._exit(0)
