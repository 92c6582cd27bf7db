# SPDX-License-Identifier: Apache-2.0
"""Runs one thing in a process of its own; says how long the call took.

usage: python -m benchmarks.child NAME PATH

Python's own start and the imports are not counted: a service has them behind
it when it shifts a tree.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.trees import ENTRY

Call = Callable[[], object]


def shift(path: str) -> Call:
    """Shift as the package does."""
    rootfs = import_module("lxc_userns.rootfs.shifting")
    id_maps = _id_maps()
    return lambda: rootfs.shift(path, id_maps)


def walk(path: str) -> Call:
    """Shift owners, and nothing else, in a plain walk by one process."""
    guest, host, count = ENTRY

    def new(number: int) -> int:
        if guest <= number < guest + count:
            return host + number - guest
        return number

    def change(name: str, fd: int) -> None:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        ids = new(st.st_uid), new(st.st_gid)
        os.chown(name, *ids, dir_fd=fd, follow_symlinks=False)

    def call() -> None:
        for _, directories, files, fd in os.fwalk(path):
            for name in directories + files:
                change(name, fd)
        os.chown(path, host, host)

    return call


def nova(path: str) -> Call:
    """Shift as Nova does, without a privsep daemon in between.

    Its callers in Nova hand it objects that it cannot unpack; tuples work.
    """
    import_module("nova.privsep").sys_admin_pctxt.set_client_mode(False)
    function = import_module("nova.privsep.idmapshift").shift
    return lambda: function(path, [ENTRY], [ENTRY])


def _id_maps() -> Any:
    idmap = import_module("lxc_userns.idmap")
    text = ":".join(map(str, ENTRY))
    both = idmap.IdMap.parse(text), idmap.IdMap.parse(text)
    return idmap.IdMaps(*both)


class Memory:
    """Highest resident memory of this process and its children, in KiB."""

    def __init__(self) -> None:
        self._children = import_module("lxc_userns.linux.process").children
        self._workers: dict[int, int] = {}

    def look(self, _inodes: int) -> None:
        """Look at the workers; the last time is when they are all done."""
        for pid in self._children(os.getpid()):
            # One that has ended has no memory any more.
            before = self._workers.get(pid, 0)
            self._workers[pid] = max(before, _highest(pid))

    def total(self) -> dict[str, int]:
        """What was found."""
        return {
            "coordinator_kib": _highest(os.getpid()),
            "workers_kib": sum(self._workers.values()),
            "workers": len(self._workers),
        }


def _highest(pid: int) -> int:
    # Not ru_maxrss, which a process inherits from the one that executed it.
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def memory(path: str) -> dict[str, int]:
    """Shift, and see how much memory that takes."""
    rootfs = import_module("lxc_userns.rootfs.shifting")
    seen = Memory()
    rootfs.shift(path, _id_maps(), progress=seen.look)
    return seen.total()


CALLS = {"shift": shift, "walk": walk, "nova": nova}


def main(name: str, path: str) -> int:
    """Run it, print what was measured as JSON."""
    if name == "memory":
        print(json.dumps(memory(path)))
        return 0
    call = CALLS[name](path)
    start = time.perf_counter()
    call()
    print(json.dumps({"seconds": time.perf_counter() - start}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
