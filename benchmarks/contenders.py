# SPDX-License-Identifier: Apache-2.0
"""Ways to make a root filesystem ready, on the same trees, by turns."""

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks import scratch
from benchmarks.measure import clock, run, say, take_turns
from benchmarks.scratch import ENTRY, HOST, ID_MAP, ID_MAPS, Scratch
from benchmarks.tables import Cell, cell, ratios, single
from benchmarks.trees import Tree
from lxc_userns import InstanceRequest, rootfs
from lxc_userns.linux import directory, mount_api, user_namespaces
from tests.functional.capabilities import in_private_libvirtd

_INSTANCE, _UUID = "bench", "7c1f7a5e-3b52-4a55-9f1d-0c6a2f6f3b10"


class Contender(NamedTuple):
    """A way to make a tree ready.

    :param call: does it; this is timed.
    :param view: where the new owners can be seen, if not on disk.
    :param undo: undoes it, but for owners on disk.
    """

    name: str
    call: Callable[[], object]
    view: Path | None = None
    undo: Callable[[], object] = bool


def contenders(path: str, place: Scratch) -> Iterator[Contender]:
    """Make those ready that can take part."""
    # What all others are compared with. It knows one owner only, and loses
    # set-ID bits and file capabilities.
    chown = ["chown", "-hR", f"{HOST}:{HOST}", path]
    yield Contender("chown -hR", partial(run, chown))
    yield Contender("rootfs.shift", partial(rootfs.shift, path, ID_MAPS))
    yield Contender("plain walk in Python", partial(_walk, path))
    if shutil.which("fuidshift"):
        fuidshift = ["fuidshift", path, f"b:{ID_MAP}"]
        yield Contender("fuidshift (LXD)", partial(run, fuidshift))
    if find_spec("nova"):
        yield Contender("Nova's idmapshift", _load_nova(path))
    for name, mount in (
        ("rootfs.mount_idmapped", partial(rootfs.mount_idmapped, path)),
        ("idmapped by hand", partial(_mount_by_hand, path)),
    ):
        view = place.view(name)
        undo = partial(rootfs.unmount, view)
        yield Contender(name, partial(mount, view, ID_MAPS), view, undo)
    yield _overlay(path, place)
    if in_private_libvirtd():
        for strategy in ("chown", "idmapped", "overlay"):
            yield _prepare(strategy, path, place)


def _load_nova(path: str) -> Callable[[], object]:
    # Without a privsep daemon in between. Its callers in Nova hand it objects
    # that it cannot unpack; tuples work.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = import_module("nova.privsep.idmapshift")
        import_module("nova.privsep").sys_admin_pctxt.set_client_mode(False)
    return partial(module.shift, path, [ENTRY], [ENTRY])


def _walk(path: str) -> None:
    """Shift owners, and nothing else, in a plain walk by one process."""
    guest, host, count = ENTRY

    def new(number: int) -> int:
        inside = guest <= number < guest + count
        return host + number - guest if inside else number

    for _, directories, files, fd in os.fwalk(path):
        for name in directories + files:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            ids = new(st.st_uid), new(st.st_gid)
            os.chown(name, *ids, dir_fd=fd, follow_symlinks=False)
    os.chown(path, host, host)


def _mount_by_hand(path: str, view: Path, _id_maps: object) -> None:
    """Mount a view by the system calls alone; no path is checked."""
    with (
        directory.opened(path) as source,
        directory.opened(view) as target,
        user_namespaces.create([ENTRY], [ENTRY]) as namespace,
    ):
        tree = mount_api.clone_mount(source)
        try:
            mount_api.set_id_maps(tree, namespace)
            mount_api.attach(tree, target)
        finally:
            os.close(tree)


def _overlay(path: str, place: Scratch) -> Contender:
    name = "rootfs.mount_overlay"
    view, state = place.view(name), place.state_path("overlay")

    def undo() -> None:
        rootfs.unmount(view)
        scratch.remove(state)

    call = partial(rootfs.mount_overlay, path, state, view, ID_MAPS)
    return Contender(name, call, view, undo)


def _prepare(strategy: str, path: str, place: Scratch) -> Contender:
    """Do all that an instance needs before its domain can start."""
    manager, services = place.make_manager(f"prepare-{strategy}")
    # A service is connected to libvirt.
    services.guests.version()
    request = InstanceRequest(_INSTANCE, _UUID, path, strategy=strategy)
    root = services.files.view(_INSTANCE)
    view = None if strategy == "chown" else Path(root)
    call = partial(manager.prepare, request)
    undo = partial(manager.release, _INSTANCE)
    return Contender(f"prepare, {strategy}", call, view, undo)


def measure(place: Scratch, inodes: int, rounds: int) -> Iterator[Cell]:
    """Let all contenders take turns on one tree, which only grows."""
    tree = Tree(place.closed / "grown")
    ready = [*contenders(str(tree.root), place)]
    plan = [(part, rounds) for part in (inodes // 100, inodes // 10, inodes)]
    # There, a round takes as long as all others.
    plan.append((3 * inodes, -(-rounds * 3 // 5)))
    for number, (size, turns) in enumerate(plan):
        say(f"making a tree of {size} inodes")
        tree.grow(size)
        for each in ready if number == 0 else []:
            say(f"checking: {each.name}")
            _take(each, tree, check=True)
        takers = {each.name: partial(_take, each, tree) for each in ready}
        times = take_turns(takers, turns, f"{tree.inodes} inodes")
        column = str(tree.inodes)
        for name, seconds in times.items():
            yield cell("ready", name, column, values=seconds, by=1000)
        yield from ratios("ready, ratio", times, column)
        yield from _measure_memory(tree)


def _take(contender: Contender, tree: Tree, *, check: bool = False) -> float:
    seconds = clock(contender.call)
    if check:
        check_shifted(tree, contender.view or tree.root)
    contender.undo()
    if contender.view is None:
        tree.restore()
    return seconds


def check_shifted(tree: Tree, shown: Path) -> None:
    """Make sure that owners are shifted, where they are shown."""
    for inode in tree.contents():
        owner = os.lstat(shown / inode.path).st_uid
        # Not more: one gives all the same owner, one shifts hard links twice.
        if owner < HOST and not inode.link:
            raise RuntimeError(f"{shown / inode.path} is not shifted")


def _measure_memory(tree: Tree) -> Iterator[Cell]:
    say(f"memory at {tree.inodes} inodes")
    argv = [sys.executable, "-m", "benchmarks.memory"]
    found = json.loads(run([*argv, str(tree.root), ID_MAP]))
    yield from single("memory", str(tree.inodes), **found)
    tree.restore()
