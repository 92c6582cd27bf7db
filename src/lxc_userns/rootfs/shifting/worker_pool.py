# SPDX-License-Identifier: Apache-2.0
"""Worker pool: processes that walk one tree together.

The first is a thread with a working directory of its own; a tree that turns
out to be large gets processes beside it. These are executed anew rather than
forked: a compute service has threads, and a fork of it could hang on a lock
that another thread held. They end with the process that started them, which
they notice by a closed pipe.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import descriptors, namespaces, polling, programs
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs.shifting import ipc, worker
from lxc_userns.rootfs.shifting.translation import (
    Devices,
    Pass,
    Segments,
    Table,
)

if TYPE_CHECKING:
    from lxc_userns.rootfs.shifting.device import PlainDevices
    from lxc_userns.rootfs.shifting.journal import Left
    from lxc_userns.rootfs.shifting.owners import PlainTable

Progress = Callable[[int], None]

#: Inodes walked for each worker process: a smaller tree is done sooner than
#: a process has started.
_SMALL = 256
_TICK = 0.1
#: Paths of inodes with names outside of a tree that are shown.
_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class WalkResult:
    """Result of a walk below the root directory.

    :param inodes: inodes walked, each counted once.
    :param shifted: of these, the ones that changed, or would change.
    :param unmapped: of these, the ones with an ID that no entry covers.
    :param unmapped_names: of these, the ones with such an ID in an ACL or in
        file capabilities.
    :param uids: unmapped user IDs, the first of them.
    :param gids: unmapped group IDs, the first of them.
    :param blocks: the blocks of 65536 IDs in which one was found.
    :param devices: inodes that are device nodes.
    :param linked_outside: inodes with more names than were met.
    :param linked_paths: paths below the root of some of these.
    :param split: names of inodes with several that are inodes of their own
        now, or would be on an overlay without an index.
    :param missed: names and directories that were no longer where they were
        read, or changed until then.
    :param put_off: inodes that were left for another walk, as notes of others
        were in the way of theirs.
    :param read_only: paths, as the kernel names them, of read-only subvolumes
        in which something would change; none when the pool acts.
    :param findings: what is wrong, as (path as the kernel names it, reason);
        the first of them. When the pool acts, only what it could not mend.
    """

    inodes: int = 0
    shifted: int = 0
    unmapped: int = 0
    unmapped_names: int = 0
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    blocks: frozenset[int] = frozenset()
    findings: tuple[tuple[str, str], ...] = ()
    devices: int = 0
    linked_outside: int = 0
    linked_paths: tuple[str, ...] = ()
    split: int = 0
    missed: int = 0
    put_off: int = 0
    read_only: frozenset[str] = frozenset()

    def plus(self, root: WalkResult) -> WalkResult:
        """Add the root directory, which is no device and has no links."""
        return replace(
            self,
            inodes=self.inodes + root.inodes,
            shifted=self.shifted + root.shifted,
            unmapped=self.unmapped + root.unmapped,
            unmapped_names=self.unmapped_names + root.unmapped_names,
            uids=self.uids | root.uids,
            gids=self.gids | root.gids,
            blocks=self.blocks | root.blocks,
            findings=self.findings + root.findings,
        )


@dataclass(frozen=True, slots=True)
class WalkTask:
    """One walk.

    :param root: descriptor of the root directory.
    :param step: what to do with owners.
    :param acts: whether to change anything, or only look.
    :param left: notes of an interrupted run, by inode number.
    :param workers: most processes, 1..256.
    :param lock: descriptor of the tree's lock, which processes keep held.
    :param since: time by the filesystem's clock, in ns, from which on a
        change of a directory counts; None if none does.
    :param seeks_read_only: whether to look for read-only subvolumes.
    """

    root: int
    step: Pass
    acts: bool
    left: Left
    workers: int
    lock: int
    since: int | None = None
    seeks_read_only: bool = False


def walk(
    task: WalkTask, path: str, progress: Progress | None = None
) -> WalkResult:
    """Walk everything below a root directory, not the directory itself.

    :param task: what to do.
    :param path: the root directory, for error texts.
    :param progress: called with the inodes walked so far, some ten times a
        second, from the calling thread.
    :raises WorkerError: if an inode refuses.
    :raises RootfsError: if a worker died. In both cases the tree is
        half-done and can be resumed.
    """
    with descriptors.many(), ExitStack() as stack:
        return _merge(_WorkerPool(task, path, stack).run(progress))


class _WorkerPool:
    """Starts workers, counts what is left to do, gathers results.

    :param task: what to do.
    :param path: the root directory, for error texts.
    :param stack: closes and ends everything.
    """

    def __init__(self, task: WalkTask, path: str, stack: ExitStack) -> None:
        self._task = task
        self._path = path
        self._stack = stack
        self._queue = ipc.Queue.create()
        self._shared_flags = ipc.SharedFlags.create()
        self._reports, self._reporting = os.pipe2(os.O_CLOEXEC)
        for fd in (*self._queue.fds, self._reports, self._reporting):
            stack.enter_context(owned(fd))
        stack.callback(self._shared_flags.close)
        #: Where the workers write their results.
        self._outputs: list[int] = []
        self._walked = 0
        # Directories that wait or are being walked; starts with the root.
        self._outstanding = 1

    def run(self, progress: Progress | None) -> list[dict[str, Any]]:
        """Walk the tree; the results of all workers."""
        self._queue.put([b""])
        if namespaces.has_native_threads():
            self._start_thread()
        else:
            self._start_worker()
        while self._outstanding:
            if len(self._outputs) < self._wanted():
                self._start_worker()
            self._read_reports()
            if progress is not None:
                progress(self._walked)
        self._queue.put_quit()
        return [self._result(output) for output in self._outputs]

    def _start_thread(self) -> None:
        """Begin in this process: most trees are done before another starts."""
        output, end = os.pipe2(os.O_CLOEXEC)
        life, life_end = os.pipe2(os.O_CLOEXEC)
        for fd in (output, life):
            self._stack.enter_context(owned(fd))
        thread = threading.Thread(
            target=_work_in_thread, args=(self._job(life), end)
        )
        self._stack.callback(thread.join)
        # Whether it walks or waits, this ends it. (To close the pipe would
        # not, if another thread has forked in between.)
        self._stack.enter_context(owned(life_end))
        self._stack.callback(os.write, life_end, b"!")
        self._stack.callback(self._shared_flags.cancel)
        self._outputs.append(output)
        thread.start()

    def _wanted(self) -> int:
        """Return how many workers a tree has earned by its size so far."""
        return min(self._task.workers, 1 + self._walked // _SMALL)

    def _start_worker(self) -> None:
        """Start a worker process."""
        process = subprocess.Popen(
            programs.python_argv(worker.__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(
                self._task.root,
                self._task.lock,
                self._shared_flags.fd,
                self._reporting,
                *self._queue.fds,
            ),
            # An interrupt from the terminal is ours to handle.
            process_group=0,
        )
        self._stack.callback(_end, process)
        # A worker that died at once is noticed by its silence.
        with suppress(BrokenPipeError):
            ipc.send(programs.pipe_fd(process.stdin), self._job(life=0))
        self._outputs.append(programs.pipe_fd(process.stdout))

    def _job(self, life: int) -> dict[str, Any]:
        return {
            "root": self._task.root,
            "acts": self._task.acts,
            "left": dict(self._task.left),
            "since": self._task.since,
            "seeks_read_only": self._task.seeks_read_only,
            "uid": plain(self._task.step.uid),
            "gid": plain(self._task.step.gid),
            "devices": plain_devices(self._task.step.devices),
            "life": life,
            "shares": self._task.workers > 1,
            "shared_flags": self._shared_flags.fd,
            "queue": self._queue.fds,
            "reports": self._reporting,
        }

    def _read_reports(self) -> None:
        ready = polling.wait(self._reports, *self._outputs, timeout=_TICK)
        for output in self._outputs:
            if output in ready:
                # It has more to say than reports only when it fails.
                self._result(output)
        if self._reports not in ready:
            return
        for kind, number in ipc.read_reports(self._reports):
            self._outstanding += (kind == ipc.GIVEN) - (kind == ipc.DONE)
            self._walked += number

    def _result(self, output: int) -> dict[str, Any]:
        try:
            result: dict[str, Any] = ipc.receive(output)
        except EOFError:
            raise RootfsError(
                self._path,
                "a worker process died",
            ) from None
        if "error" in result:
            raise WorkerError(*result["error"])
        return result


def _work_in_thread(job: dict[str, Any], output: int) -> None:
    with owned(output):
        namespaces.unshare_working_directory()
        worker.work(job, output)


class WorkerError(OSError):
    """A system call of a worker failed; the path is as the kernel names it."""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # Waits for the process, and closes its pipes.
    with process:
        pass


def plain(table: Table) -> PlainTable:
    """Return a table as workers take it."""
    return (
        _plain_segments(table.segments),
        _plain_ranges(table.final),
        table.nobody,
        table.undoes,
        _plain_ranges(table.before),
        _plain_ranges(table.hosts or table.final),
        _plain_ranges(table.same),
    )


def plain_devices(devices: Devices) -> PlainDevices:
    """Return the table of device nodes as workers take it."""
    return (
        [*map(_plain_segments, devices.uid)],
        [*map(_plain_segments, devices.gid)],
        devices.seals,
    )


def _plain_segments(segments: Segments) -> list[tuple[int, int, int]]:
    return [(each.source, each.target, each.count) for each in segments]


def _plain_ranges(ranges: Sequence[range]) -> list[tuple[int, int]]:
    return [(ids.start, ids.stop) for ids in ranges]


def _merge(results: list[dict[str, Any]]) -> WalkResult:
    links = _merge_links(results)
    outside = [link.path for link in links if link.met < link.names]

    def total(name: str) -> int:
        return sum(result[name] for result in results)

    def union(name: str) -> frozenset[Any]:
        return frozenset().union(*(result[name] for result in results))

    return WalkResult(
        inodes=total("inodes") + len(links),
        shifted=total("shifted") + sum(link.shifted for link in links),
        unmapped=total("unmapped") + sum(link.unmapped for link in links),
        unmapped_names=total("unmapped_names")
        + sum(link.unmapped_names for link in links),
        uids=union("uids"),
        gids=union("gids"),
        blocks=union("blocks"),
        findings=tuple(
            (path, reason)
            for result in results
            for path, reason in result["findings"]
        ),
        devices=total("devices") + sum(link.is_device for link in links),
        split=total("split"),
        missed=total("missed"),
        put_off=total("put_off"),
        read_only=union("read_only"),
        linked_outside=len(outside),
        linked_paths=tuple(map(os.fsdecode, outside[:_MOST_SHOWN])),
    )


class _Link(NamedTuple):
    met: int
    names: int
    shifted: bool
    unmapped: bool
    unmapped_names: bool
    is_device: bool
    path: bytes


def _merge_links(results: list[dict[str, Any]]) -> Collection[_Link]:
    """Return the inodes of which no worker has met all names."""
    links: dict[tuple[int, int], _Link] = {}
    for result in results:
        for key, values in result["links"]:
            link = _Link(*values)
            if before := links.get(key):
                link = before._replace(
                    met=before.met + link.met,
                    shifted=before.shifted or link.shifted,
                    unmapped=before.unmapped or link.unmapped,
                    unmapped_names=before.unmapped_names
                    or link.unmapped_names,
                )
            links[key] = link
    return links.values()
