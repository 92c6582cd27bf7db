# SPDX-License-Identifier: Apache-2.0
"""A process that does one thing again and again, as a service would.

usage: python -m benchmarks.child serve NAME SCRATCH
       python -m benchmarks.child memory PATH

``serve`` reads a path from each line of its input, does what NAME says to
the tree there, and prints how long the call took and where the result can be
seen. It undoes it at the next line, which is empty. Python's own start and
the imports are not counted: a service has them behind it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import by_hand
from benchmarks.measure import LONGEST, clock
from benchmarks.scratch import Scratch, remove
from benchmarks.trees import ENTRY

_INSTANCE, _UUID = "bench", "7c1f7a5e-3b52-4a55-9f1d-0c6a2f6f3b10"


def _nothing() -> None:
    """Do nothing; whoever asked puts the tree back."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done to a tree.

    :param call: does it; this is timed.
    :param shown: where the new owners can be seen then.
    :param undo: undoes it, but for owners on disk.
    """

    call: Callable[[], object]
    shown: str
    undo: Callable[[], object] = _nothing


def shift(path: str, _scratch: Scratch) -> Work:
    """Shift as the package does."""
    rootfs = import_module("lxc_userns.rootfs.shifting.shift")
    return Work(partial(rootfs.shift, path, id_maps()), path)


def walk(path: str, _scratch: Scratch) -> Work:
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

    return Work(call, path)


def nova(path: str, _scratch: Scratch) -> Work:
    """Shift as Nova does, without a privsep daemon in between.

    Its callers in Nova hand it objects that it cannot unpack; tuples work.
    """
    import_module("nova.privsep").sys_admin_pctxt.set_client_mode(False)
    function = import_module("nova.privsep.idmapshift").shift
    return Work(partial(function, path, [ENTRY], [ENTRY]), path)


def idmapped(path: str, scratch: Scratch) -> Work:
    """Mount an idmapped view as the package does."""
    rootfs = import_module("lxc_userns.rootfs.views.standalone")
    target = _target(scratch, "idmapped")
    return Work(
        partial(rootfs.mount_idmapped, path, target, id_maps()),
        target,
        partial(rootfs.unmount, target),
    )


def overlay(path: str, scratch: Scratch) -> Work:
    """Mount an overlay as the package does, with a new upper layer."""
    rootfs = import_module("lxc_userns.rootfs.views.standalone")
    target = _target(scratch, "overlay")
    state = scratch.state_path("overlay")

    def undo() -> None:
        rootfs.unmount(target)
        remove(state)

    call = partial(rootfs.mount_overlay, path, state, target, id_maps())
    return Work(call, target, undo)


def mount(path: str, scratch: Scratch) -> Work:
    """Mount an idmapped view by the system calls alone."""
    rootfs = import_module("lxc_userns.rootfs.views.standalone")
    target = _target(scratch, "by-hand")
    return Work(
        partial(by_hand.mount, path, target, ENTRY),
        target,
        partial(rootfs.unmount, target),
    )


def prepare(strategy: str, path: str, scratch: Scratch) -> Work:
    """Do all that an instance needs before its domain can start."""
    manager = make_manager(scratch, f"prepare-{strategy}")
    # A service is connected to libvirt.
    manager.guests.version()
    request = import_module("lxc_userns.manager").InstanceRequest(
        _INSTANCE, _UUID, path, strategy=strategy
    )
    return Work(
        partial(manager.prepare, request),
        manager.plan(request).root,
        partial(manager.release, _INSTANCE),
    )


def make_manager(scratch: Scratch, name: str) -> Any:
    """A manager with a configuration of its own."""
    options = import_module("lxc_userns.config.options")
    conf = import_module("oslo_config.cfg").ConfigOpts()
    options.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for kind in ("uid_maps", "gid_maps"):
        conf.set_override(kind, [id_map_text()], "libvirt")
    for kind, place in (
        ("state_path", scratch.state_path(name)),
        ("run_path", scratch.run_path(name)),
    ):
        conf.set_override(kind, str(place), "lxc_userns")
    import_module("lxc_userns.libvirtd.client").silence()
    return import_module("lxc_userns.manager").UserNamespaceManager(conf)


def id_map_text() -> str:
    """The ID map, as options and arguments have it."""
    return ":".join(map(str, ENTRY))


def id_maps() -> Any:
    """The ID maps."""
    idmap = import_module("lxc_userns.idmap")
    both = (idmap.IdMap.parse(id_map_text()) for _ in range(2))
    return idmap.IdMaps(*both)


def _target(scratch: Scratch, name: str) -> str:
    path = scratch.run_path(name)
    path.mkdir(exist_ok=True)
    return str(path)


WORKS: dict[str, Callable[[str, Scratch], Work]] = {
    "by-hand": mount,
    "idmapped": idmapped,
    "nova": nova,
    "overlay": overlay,
    "prepare-chown": partial(prepare, "chown"),
    "prepare-idmapped": partial(prepare, "idmapped"),
    "prepare-overlay": partial(prepare, "overlay"),
    "shift": shift,
    "walk": walk,
}


def serve(name: str, directory: str) -> None:
    """Work until the input ends."""
    scratch = Scratch(Path(directory))
    while path := sys.stdin.readline().rstrip("\n"):
        # Whoever waits sees that this process is gone.
        signal.alarm(int(LONGEST))
        work = WORKS[name](path, scratch)
        _answer({"seconds": clock(work.call), "shown": work.shown})
        sys.stdin.readline()
        work.undo()
        _answer({})
        signal.alarm(0)


def _answer(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


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


def memory(path: str) -> None:
    """Shift, see how much memory that takes, and shift again."""
    rootfs = import_module("lxc_userns.rootfs.shifting.shift")
    seen = Memory()
    rootfs.shift(path, id_maps(), progress=seen.look)
    found = seen.total()
    again = clock(partial(rootfs.shift, path, id_maps()))
    _answer(found | {"again": again})


MODES: dict[str, Callable[..., None]] = {"memory": memory, "serve": serve}

if __name__ == "__main__":
    MODES[sys.argv[1]](*sys.argv[2:])
