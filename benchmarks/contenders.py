# SPDX-License-Identifier: Apache-2.0
"""Ways to make a root filesystem ready, on the same trees, by turns."""

import json
import os
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import clock, run, take_turns
from benchmarks.scratch import ENTRY, ID_MAPS, Scratch, remove
from benchmarks.tables import Cell, ratios, single, timed
from benchmarks.trees import Tree
from lxc_userns import InstanceRequest, rootfs
from lxc_userns.linux import directory, mount_api, user_namespaces
from tests.functional.capabilities import in_private_libvirtd
from tests.functional.command_line import BASE, ID_MAP

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

    def take(self, tree: Tree, *, check: bool = False) -> float:
        """Return the seconds of it; the tree is as before then."""
        seconds = clock(self.call)
        for inode in tree if check else ():
            path = (self.view or tree.root) / inode.path
            # One gives all the same owner, one shifts hard links twice.
            if path.lstat().st_uid < BASE and not inode.link:
                raise RuntimeError(f"{self.name}: {path} is not shifted")
        self.undo()
        if self.view is None:
            tree.restore()
        return seconds


def contenders(path: str, place: Scratch) -> Iterator[Contender]:
    """Make those ready that can take part."""
    # What all others are compared with. It knows one owner only, and loses
    # set-ID bits and file capabilities.
    chown = ["chown", "-hR", f"{BASE}:{BASE}", path]
    yield Contender("chown -hR", partial(run, chown))
    yield Contender("rootfs.shift", partial(rootfs.shift, path, ID_MAPS))
    yield Contender("plain walk in Python", partial(_walk, path))
    if shutil.which("fuidshift"):
        fuidshift = ["fuidshift", path, f"b:{ID_MAP}"]
        yield Contender("fuidshift (LXD)", partial(run, fuidshift))
    if find_spec("nova"):
        yield Contender("Nova's idmapshift", _load_nova(path))
    state = place.closed / "overlay"
    overlay = partial(rootfs.mount_overlay, path, state)
    for name, mount in (
        ("rootfs.mount_idmapped", partial(rootfs.mount_idmapped, path)),
        ("idmapped by hand", partial(_mount_by_hand, path)),
        ("rootfs.mount_overlay", overlay),
    ):
        view = place.view(name)
        undo = partial(_unmount, view, state)
        yield Contender(name, partial(mount, view, ID_MAPS), view, undo)
    for strategy in ("chown", "idmapped", "overlay"):
        if in_private_libvirtd():
            yield _prepare(strategy, path, place)


def _unmount(view: Path, state: Path) -> None:
    rootfs.unmount(view)
    remove(state)


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
    for _, directories, files, fd in os.fwalk(path):
        for name in directories + files:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            ids = [n + BASE * (n < BASE) for n in (st.st_uid, st.st_gid)]
            os.chown(name, *ids, dir_fd=fd, follow_symlinks=False)
    os.chown(path, BASE, BASE)


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


def _prepare(strategy: str, path: str, place: Scratch) -> Contender:
    """Do all that an instance needs before its domain can start."""
    cli = place.configure(f"prepare-{strategy}")
    manager = cli.manager()
    request = InstanceRequest(_INSTANCE, _UUID, path, strategy=strategy)
    call = partial(manager.prepare, request)
    root = cli.services().files.view(_INSTANCE)
    view = None if strategy == "chown" else Path(root)
    undo = partial(manager.release, _INSTANCE)
    return Contender(f"prepare, {strategy}", call, view, undo)


def measure(place: Scratch, asked: Namespace) -> Iterator[Cell]:
    """Let all contenders take turns on one tree, which only grows."""
    tree = Tree(place.closed / "grown")
    ready = [*contenders(str(tree.root), place)]
    takers = {each.name: partial(each.take, tree) for each in ready}
    memory = [sys.executable, "-m", "benchmarks.memory", str(tree.root)]
    for part in (0.01, 0.1, 1, 3):
        # At least what a root filesystem has, lest others make it.
        tree.grow(max(2, int(part * asked.inodes)))
        for each in ready if part == 0.01 else ():
            each.take(tree, check=True)
        # On the largest, a round takes as long as all others.
        rounds = ceil(asked.rounds * (0.6 if part == 3 else 1))
        column = str(tree.inodes)
        times = take_turns(takers, rounds, f"{column} inodes")
        yield from timed("ready", times, column)
        yield from ratios("ready, ratio", times, column)
        found = json.loads(run([*memory, ID_MAP]))
        yield from single("memory", column, **found)
        tree.restore()
