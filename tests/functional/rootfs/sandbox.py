# SPDX-License-Identifier: Apache-2.0
"""Tar in the middle of its work, and who is around it then."""

import marshal
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.linux import polling
from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from tests.functional.rootfs.archives import unpack

LONGEST = 60.0


@contextmanager
def tar_with(*options: str) -> Iterator[None]:
    """Give tar further options, in what its supervisor is sent."""
    dumps = marshal.dumps

    def dump(value: Any) -> bytes:
        if isinstance(value, dict) and "tar" in value:
            program, argv = value["tar"]
            value = value | {"tar": (program, (*argv, *options))}
        return dumps(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marshal, "dumps", dump)
        yield


@contextmanager
def paused() -> Iterator[None]:
    """Let tar wait at the first record, long enough to be looked at."""
    with tar_with("--checkpoint=1", "--checkpoint-action=sleep=1000"):
        yield


class Unpacking(threading.Thread):
    """Unpacks in a thread; what comes of it is kept."""

    def __init__(self, archive: Path, path: Path, shifted: bool) -> None:
        super().__init__()
        self.arguments = archive, path, shifted
        self.error: BaseException | None = None

    def run(self) -> None:
        archive, path, shifted = self.arguments
        try:
            unpack(archive, path, shifted=shifted)
        except BaseException as err:
            self.error = err


def descendants(pid: int) -> list[tuple[str, int]]:
    """All that a process has started: the command and its process ID."""
    found = []
    for child in children(pid):
        try:
            with Process(child) as process:
                found.append((process.command, child))
        except ProcessLookupError:
            continue
        found += descendants(child)
    return found


def family(pid: int) -> dict[str, int]:
    """Supervisor, first process, tar and zstd; none until all are there."""
    for supervisor in children(pid):
        found = [("supervisor", supervisor), *descendants(supervisor)]
        programs = dict(found)
        pythons = [each for name, each in found if "python" in name]
        if {"tar", "zstd"} <= set(programs) and len(pythons) == 1:
            return {
                "supervisor": supervisor,
                "first": pythons[0],
                "tar": programs["tar"],
                "zstd": programs["zstd"],
            }
    return {}


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.split() for key, _, value in pairs}


def gone(processes: dict[str, int]) -> Callable[[], bool]:
    fds = [os.pidfd_open(pid) for pid in processes.values()]

    def all_gone() -> bool:
        poll = polling.wait(*fds, timeout=0)
        if len(poll) < len(fds):
            return False
        for fd in fds:
            os.close(fd)
        return True

    return all_gone
