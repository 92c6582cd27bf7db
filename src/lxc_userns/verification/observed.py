# SPDX-License-Identifier: Apache-2.0
"""Observed state of a running container, as the kernel has it.

Nothing is looked up by a path in the container, where its root could have
mounted a filesystem that never answers. What libvirt makes for it can be
seen through the process of libvirt that is in charge of it, and there no link
is followed and no file opened but directories.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from lxc_userns.libvirtd import daemon
from lxc_userns.linux import directory, mount_namespaces
from lxc_userns.linux.bounds import at_most
from lxc_userns.linux.mounts import Mount, mount_id, read_mounts
from lxc_userns.linux.process import Process, Rows
from lxc_userns.linux.processes import peers
from lxc_userns.verification.cgroups import writable

#: Namespaces by the kernel's names that each container has of its own,
#: unless something else was promised.
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts")
#: How deep libvirt makes nodes, as /dev/bus/usb/001/002.
_DEEPEST = 4
#: A container can make any number of names, mounts and threads. With more than
#: what no container in earnest has, it cannot be verified.
_MOST_NAMES = 10_000
_MOST_MOUNTS = 10_000
_MOST_THREADS = 100_000
#: What libvirt mounts for a container before it is moved there, by the suffix
#: of its place: its /dev, its terminals and its FUSE files of /proc.
_MADE = ("dev", "devpts", "fuse")
#: Number of the node by which terminals are made.
_PTMX = (5, 2)


@dataclass(frozen=True, slots=True)
class Node:
    """A device node or terminal of a container.

    :param path: where it is in the container.
    :param kind: which kind of device.
    :param number: major and minor number.
    :param uid: owner, a host ID.
    :param gid: group, a host ID.
    """

    path: str
    kind: Literal["char", "block"]
    number: tuple[int, int]
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Observed:
    """Observed state of a running container, as the kernel has it.

    :param pid: host's process ID of its first process.
    :param uid_map: rows of that one's ``uid_map``.
    :param gid_map: rows of its ``gid_map``.
    :param shared: namespaces that it shares with the host, of
        :data:`NAMESPACES`.
    :param foreign: namespaces that belong to another user namespace than its
        own.
    :param capabilities: all that its processes have or could have, as bits.
    :param root: the mount that its root directory is on, None if it is not
        known.
    :param mounts: what is mounted in it, with points as it sees them.
    :param host_mounts: what is mounted on the host, in the mount namespace of
        libvirt, which looks up sources of filesystems there.
    :param own_mounts: what is mounted in that of this process.
    :param nodes: device nodes that libvirt made for it.
    :param terminals: its terminals.
    :param terminal_group: group of terminals that are opened, a host ID.
    :param writable: directories of control groups on the host, and what in
        each its root can write beyond what is harmless; none in the host's
        user namespace.
    :param label: what the kernel's security module says of its first
        process, empty if it says nothing.
    """

    pid: int
    uid_map: Rows
    gid_map: Rows
    shared: frozenset[str]
    foreign: frozenset[str]
    capabilities: int
    root: Mount | None
    mounts: tuple[Mount, ...]
    host_mounts: tuple[Mount, ...]
    nodes: tuple[Node, ...]
    terminals: tuple[Node, ...]
    terminal_group: int
    writable: tuple[tuple[str, str], ...]
    label: str = ""
    own_mounts: tuple[Mount, ...] = ()

    @property
    def host_filesystems(self) -> frozenset[tuple[str, str]]:
        """Types and devices of what is mounted outside the container."""
        return frozenset(
            (mount.fs_type, mount.device)
            for mount in (*self.host_mounts, *self.own_mounts)
        )


def observe(name: str, init: Process) -> Observed:
    """Look at a running container.

    :param name: name of its domain.
    :param init: its first process.
    :raises ProcessLookupError: if it has ended.
    :raises BoundExceededError: if there is more of something than is looked
        at.
    :raises OSError: if something cannot be looked at.
    """
    own_mounts = [*read_mounts()]
    with Process("self") as this, init.opened_parent() as controller:
        shared = {
            kind
            for kind in NAMESPACES
            if init.namespace(kind)
            in (this.namespace(kind), controller.namespace(kind))
        }
        made = [*controller.mounts]
        terminals = _find(made, "devpts", f"/{name}.devpts")
        devices = _find(made, "tmpfs", f"/{name}.dev")
        host_mounts = _mounts_of_libvirt(controller, name)
        with controller.open_root() as root:
            nodes = tuple(_nodes(root, devices.point, "/dev"))
            found = tuple(_nodes(root, terminals.point, "/dev/pts"))
    seen = _mounts(init)
    return Observed(
        pid=int(init.pid),
        uid_map=init.uid_map,
        gid_map=init.gid_map,
        shared=frozenset(shared),
        foreign=frozenset(_foreign(init)) - shared,
        capabilities=_capabilities(init),
        root=seen.get(_root_mount(init)),
        mounts=tuple(seen.values()),
        host_mounts=host_mounts,
        own_mounts=tuple(own_mounts),
        nodes=nodes,
        terminals=tuple(node for node in found if node.number != _PTMX),
        terminal_group=_group(terminals),
        writable=()
        if "user" in shared
        else tuple(
            (group.path, ", ".join(names))
            for group, names in writable(init, own_mounts)
        ),
        label=init.security_label,
    )


def _foreign(init: Process) -> Iterator[str]:
    own = init.namespace("user")
    for kind in NAMESPACES:
        if kind != "user" and init.namespace_owner(kind) != own:
            yield kind


def _capabilities(init: Process) -> int:
    # One that was begun before the first gave them up may have kept them, and
    # so may another thread.
    found = 0
    every = chain.from_iterable(_of_threads(init))
    for held in at_most(_MOST_THREADS, every, "threads"):
        found |= held
    return found


def _of_threads(init: Process) -> Iterator[Iterator[int]]:
    yield init.capabilities
    for process in peers(init):
        yield _until_it_ends(process.capabilities)


def _until_it_ends(values: Iterator[int]) -> Iterator[int]:
    with suppress(ProcessLookupError):
        yield from values


def _mounts(init: Process) -> dict[int, Mount]:
    """Return the mounts, by their IDs.

    Each way leaves out what is not below its root, which the container's root
    can change for its first process, or cover for who enters.
    """
    seen = at_most(_MOST_MOUNTS, init.mounts, "mounts")
    found = {mount.number: mount for mount in seen}
    rest = mount_namespaces.read(init, _MOST_MOUNTS)
    return found | {mount.number: mount for mount in rest}


def _root_mount(init: Process) -> int:
    with init.open_root() as root:
        return mount_id(root)


def _find(mounts: Sequence[Mount], fs_type: str, suffix: str) -> Mount:
    for mount in reversed(mounts):
        if mount.fs_type == fs_type and mount.point.endswith(suffix):
            return mount
    raise FileNotFoundError(
        errno.ENOENT,
        f"libvirt's process for it has no {fs_type} on a directory "
        f"{suffix[1:]}",
    )


def _mounts_of_libvirt(controller: Process, name: str) -> tuple[Mount, ...]:
    """Return the mounts where libvirt looks up a container's filesystems."""
    found = daemon.find()
    if found is not None:
        return found.mounts
    # What there was for the daemon when the container started, and what it
    # mounts for one before that is moved into it.
    own = tuple(f"/{name}.{suffix}" for suffix in _MADE)
    return tuple(
        mount for mount in controller.mounts if not mount.point.endswith(own)
    )


def _group(terminals: Mount) -> int:
    for each in terminals.fs_options:
        key, _, value = each.partition("=")
        if key == "gid":
            return int(value)
    return 0


def _nodes(root: int, point: str, shown: str) -> Iterator[Node]:
    """Yield device nodes in a directory of libvirt's.

    The container can fill it as it likes, but with nothing that libvirt
    mounts there: it is looked at down to where libvirt's own nodes are.
    """
    with directory.opened_in(root, point.lstrip("/")) as top:
        every = _walk(top, shown, _DEEPEST)
        for path, status in at_most(_MOST_NAMES, every, f"names in {shown}"):
            if kind := _kind(status):
                yield _node(path, kind, status)


def _walk(
    fd: int, place: str, depth: int
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that is in a directory, with its status."""
    with os.scandir(fd) as entries:
        for entry in entries:
            path = f"{place}/{entry.name}"
            with suppress(FileNotFoundError, NotADirectoryError):
                status = entry.stat(follow_symlinks=False)
                yield path, status
                # Swapped for anything else it is not opened.
                if depth and stat.S_ISDIR(status.st_mode):
                    with directory.opened_in(fd, entry.name) as below:
                        yield from _walk(below, path, depth - 1)


def _kind(status: os.stat_result) -> Literal["char", "block"] | None:
    if stat.S_ISCHR(status.st_mode):
        return "char"
    return "block" if stat.S_ISBLK(status.st_mode) else None


def _node(
    path: str, kind: Literal["char", "block"], status: os.stat_result
) -> Node:
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    return Node(path, kind, number, status.st_uid, status.st_gid)
