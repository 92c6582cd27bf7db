# SPDX-License-Identifier: Apache-2.0
"""Processes that use a directory tree, as :manpage:`fuser(1)` finds them.

Permissions count when a file is opened: a process keeps its working
directory, its root directory, its open files and the program that it runs
when a directory above them is closed to it, and what it has mounted itself.

Not seen is a descriptor that is on its way through a socket
(:manpage:`unix(7)`, SCM_RIGHTS) or registered with io_uring and closed:
``/proc`` shows neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from lxc_userns.linux import directory, file_identity, mounts
from lxc_userns.linux.fd import open_file, owned
from lxc_userns.linux.mounts import Mount

#: Passes over ``/proc`` until one meets no new process.
_PASSES = 100
#: Bytes of ``/proc/PID/status`` that have the user IDs in them.
_STATUS_HEAD = 1024
_LINKS = {
    "cwd": "its working directory",
    "root": "its root directory",
    "exe": "the program that it runs",
}


#: Directories that only root may enter, each by device, inode number and time
#: of its last change in nanoseconds.
Closed = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a filesystem, whatever mount shows it.

    :param device: the filesystem, as ``major:minor`` in ``mountinfo``.
    :param path: absolute path in it.
    """

    device: str
    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory tree, and the way to it.

    :param place: its root.
    :param number: number of its device, as of ``st_dev``.
    :param way: the directories above it up to and with the one that only
        root may enter: who is in one of them can go on to the tree.
    """

    place: Place
    number: int
    way: frozenset[Place]

    def is_entered_from(self, place: Place) -> bool:
        """Return whether an open place leads to the tree, or is in it."""
        return place in self.way or (
            place.device == self.place.device
            and place.path.is_relative_to(self.place.path)
        )


@dataclass(frozen=True, slots=True)
class User:
    """A process that uses a tree.

    :param pid: process ID.
    :param name: what it is called; its own doing, no proof.
    :param uid: a user ID of it that is not root's.
    :param how: what it has of the tree.
    """

    pid: int
    name: str
    uid: int
    how: str


def place_of(path: str, mount: Mount) -> Place | None:
    """Return the place of a file on a mount, None if it is elsewhere.

    :param path: the file, as whoever has the mount sees it.
    """
    where = PurePosixPath(path)
    if not where.is_relative_to(mount.point):
        return None
    return Place(
        mount.device,
        PurePosixPath(mount.root, where.relative_to(mount.point)),
    )


def find_user(tree: Tree) -> User | None:
    """Return a process that is not root's and uses a tree, None without one.

    A mount that is idmapped or ``nosuid`` does not count: through it, no
    program runs as root.

    :raises OSError: if a process cannot be looked at, with ``E2BIG`` if it
        has unreasonably many mounts.
    """
    search = _Search(tree, [*mounts.read_mounts()])
    seen: set[str] = set()
    for _ in range(_PASSES):
        # Those that were started during a pass are looked at in the next.
        new = {*filter(str.isdecimal, os.listdir("/proc"))} - seen
        if not new:
            return None
        for pid in new:
            with suppress(FileNotFoundError, ProcessLookupError):
                if found := search.look(pid):
                    return found
        seen |= new
    raise OSError("processes come and go too fast to look at all of them")


class _Search:
    """One search of all processes."""

    def __init__(self, tree: Tree, own: Sequence[Mount]) -> None:
        self._tree = tree
        self._own = {mount.number: mount for mount in own}
        self._tables = {_namespace("self"): self._own}

    def look(self, pid: str) -> User | None:
        """Look at one process, all threads of it."""
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                base = f"/proc/{pid}/task/{task}"
                name, uid = _read_status(base)
                if uid and (how := self._find(f"{pid}/task/{task}")):
                    return User(int(pid), name, uid, how)
        return None

    def _find(self, task: str) -> str | None:
        namespace = _namespace(task)
        if namespace not in self._tables:
            table = {each.number: each for each in mounts.read_mounts(task)}
            self._tables[namespace] = table
            for mount in table.values():
                if self._is_way_of_its_own(mount, table):
                    return f"a mount of its own, {mount.point}"
        known = self._tables[namespace]
        return self._find_link(f"/proc/{task}", known) or self._find_mapping(
            f"/proc/{task}", known
        )

    def _is_way_of_its_own(
        self, mount: Mount, table: Mapping[int, Mount]
    ) -> bool:
        """Return whether a mount of another namespace is a way to the tree.

        Most are copies of the host's, which are looked at as such.
        """
        place = Place(mount.device, PurePosixPath(mount.root))
        return self._is_way(mount, place) and _route(mount, table) not in (
            _route(each, self._own)
            for each in self._own.values()
            if (each.device, each.root) == (mount.device, mount.root)
        )

    def _find_link(self, base: str, known: Mapping[int, Mount]) -> str | None:
        for link, how in _LINKS.items():
            with suppress(FileNotFoundError):
                path = f"{base}/{link}"
                if self._leads_in(path, _mount_id(path), known):
                    return how
        for number in os.listdir(f"{base}/fd"):
            with suppress(FileNotFoundError):
                mount = mounts.read_mount_id(f"{base}/fdinfo/{number}")
                if self._leads_in(f"{base}/fd/{number}", mount, known):
                    return f"its descriptor {number}"
        return None

    def _leads_in(
        self, link: str, number: int, known: Mapping[int, Mount]
    ) -> bool:
        path = os.readlink(link)
        if not path.startswith("/"):
            return False  # A pipe, a socket.
        mount = self._own.get(number) or known.get(number)
        if mount is not None:
            place = place_of(path, mount)
            if place is not None:
                return self._is_way(mount, place)
        # On a mount that was taken off, or of another root directory.
        if os.stat(link).st_dev != self._tree.number:
            return False
        place = self._find_elsewhere(link)
        return place is None or self._tree.is_entered_from(place)

    def _find_elsewhere(self, link: str) -> Place | None:
        """Return the place of a file by a mount of all there is."""
        for mount in self._own.values():
            if (mount.device, mount.root) == (self._tree.place.device, "/"):
                with suppress(OSError), directory.opened(mount.point) as top:
                    return _place_on(mount, top, link)
        return None

    def _find_mapping(
        self, base: str, known: Mapping[int, Mount]
    ) -> str | None:
        device = self._tree.place.device
        candidates = [
            mount
            for mount in (*self._own.values(), *known.values())
            if mount.device == device
        ]
        for path in {*_mapped(base, device)}:
            for mount in candidates:
                place = place_of(path, mount)
                if place is not None and self._is_way(mount, place):
                    return "a mapping of a file"
        return None

    def _is_way(self, mount: Mount, place: Place) -> bool:
        return not mount.ignores_set_id and self._tree.is_entered_from(place)


def _route(
    mount: Mount | None, table: Mapping[int, Mount]
) -> list[tuple[str, str, str]]:
    """Return a mount and all that it is mounted on, whatever their numbers."""
    route: list[tuple[str, str, str]] = []
    while mount is not None and len(route) <= len(table):
        route.append((mount.device, mount.root, mount.point))
        mount = table.get(mount.parent)
    return route


def _namespace(task: str) -> str:
    return os.readlink(f"/proc/{task}/ns/mnt")


def _read_status(base: str) -> tuple[str, int]:
    """Return the name and a user ID that is not root's, 0 without one."""
    with open_file(f"{base}/status", os.O_RDONLY) as fd:
        # The first line is the name, in which the kernel escapes a new line.
        name, _, rest = os.read(fd, _STATUS_HEAD).partition(b"\n")
    uids = rest.partition(b"\nUid:")[2].partition(b"\n")[0]
    uid = max(map(int, uids.split()))
    return ascii(os.fsdecode(name.partition(b"\t")[2])), uid


def _mount_id(link: str) -> int:
    with open_file(link, os.O_PATH) as fd:
        return mounts.mount_id(fd)


def _place_on(mount: Mount, top: int, link: str) -> Place | None:
    """Return the place of a file as another mount of its filesystem shows it.

    :param top: descriptor of the root of that mount.
    """
    if mounts.mount_id(top) != mount.number:
        return None  # Another one covers it.
    with open_file(link, os.O_PATH) as fd:
        found = file_identity.reopen(fd, top)
    with owned(found):
        return place_of(os.readlink(f"/proc/self/fd/{found}"), mount)


def _mapped(base: str, device: str) -> Iterator[str]:
    """Yield paths of the files of a device that a process has mapped."""
    major, minor = map(int, device.split(":"))
    with open(f"{base}/maps", "rb") as stream:
        for line in stream:
            fields = line.rstrip(b"\n").split(None, 5)
            if len(fields) > 5 and fields[5].startswith(b"/"):
                found = fields[3].split(b":")
                if [int(each, 16) for each in found] == [major, minor]:
                    yield os.fsdecode(fields[5])
