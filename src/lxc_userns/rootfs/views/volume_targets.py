# SPDX-License-Identifier: Apache-2.0
"""Targets of volumes, followed in a root filesystem as libvirt will.

libvirt 9 mounts a volume in the container's own mounts, when it has put the
host's tree on ``/.oldroot`` and its own filesystems on ``/proc``, ``/sys`` and
``/dev``. It follows links in the target, and makes what is missing, as the
container's root. So a link in a hostile image can lead it out of the root
filesystem, and let it make files in directories of the host that are open to
all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.views.source import MOUNTED_BY_LIBVIRT

#: The names that lead from the root of a container to a place in it.
Names = tuple[str, ...]

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # As for the kernel: path_resolution(7).


@dataclass(frozen=True, slots=True)
class FollowedTarget:
    """Directory that a target leads to.

    :param names: the way there, without links.
    :param mode: type and permissions of what is there; None if nothing is,
        or if libvirt mounts something of its own above it.
    :param is_missing: whether not even its directory is there.
    """

    names: Names
    mode: int | None = None
    is_missing: bool = False


def follow(
    root: int, target: str, covers: Mapping[Names, int]
) -> FollowedTarget:
    """Find where a target leads in a root filesystem.

    :param root: descriptor of its root directory. No one may change it until
        the container has started.
    :param target: absolute path in it.
    :param covers: descriptors of what is mounted in it by then, by place.
    :raises RootfsError: if a link leads to what libvirt mounts itself, to
        ``/``, or to nothing.
    :raises OSError: if the root filesystem cannot be read.
    """
    with _walk(root, target, covers) as walk:
        return walk.to_end()


@dataclass(slots=True)
class _Walk:
    """One target on its way: what is behind and what is ahead.

    :param target: the target.
    :param covers: as for :func:`follow`.
    :param fds: descriptors of the root and of all directories passed since;
        None for one that is missing.
    :param ahead: names still to go, the next one last, and whether it was a
        link that said so.
    """

    target: str
    covers: Mapping[Names, int]
    fds: list[int | None]
    ahead: list[tuple[str, bool]]
    names: list[str] = field(default_factory=list)
    links: int = 0

    def to_end(self) -> FollowedTarget:
        """Go all the way."""
        while self.ahead:
            name, by_link = self.ahead.pop()
            if name == "..":
                self._go_up()
            elif name not in ("", "."):
                if not self.names and self._is_mounted_by_libvirt(name):
                    return self._in_own_mount(name)
                self._step(name, by_link)
        if not self.names:
            raise self._led("to the root directory")
        return self._place()

    def _step(self, name: str, by_link: bool) -> None:
        fd = self._open(name)
        self.fds.append(fd)
        self.names.append(name)
        if fd is None:
            if by_link:
                raise self._led(
                    f"to /{'/'.join(self.names)}, which is not there"
                )
            return
        mode = os.fstat(fd).st_mode
        if stat.S_ISLNK(mode):
            self._go_along(os.readlink("", dir_fd=fd))
        elif self.ahead and not stat.S_ISDIR(mode):
            found = "/".join(self.names)
            raise RootfsError(
                self.target, f"/{found} in it is not a directory; give another"
            )

    def _open(self, name: str) -> int | None:
        cover = self.covers.get((*self.names, name))
        if cover is not None:
            return os.dup(cover)
        parent = self.fds[-1]
        if parent is None:
            return None
        try:
            return os.open(name, _FLAGS, dir_fd=parent)
        except FileNotFoundError:
            return None

    def _go_up(self) -> None:
        if self.names:
            self.names.pop()
            _close(self.fds.pop())

    def _go_along(self, link: str) -> None:
        self.links += 1
        if self.links > _MOST_LINKS:
            raise self._led("on and on")
        self._go_up()
        if link.startswith("/"):
            while self.names:
                self._go_up()
        self.ahead += [(name, True) for name in reversed(link.split("/"))]

    def _is_mounted_by_libvirt(self, name: str) -> bool:
        if name in MOUNTED_BY_LIBVIRT:
            return True
        # Some filesystems find a directory by other names too: ext4(5),
        # casefold.
        root = self.fds[0]
        found = _identify(root, name)
        return found is not None and found in (
            _identify(root, each) for each in MOUNTED_BY_LIBVIRT
        )

    def _in_own_mount(self, name: str) -> FollowedTarget:
        ahead = [each for each, _ in reversed(self.ahead)]
        names = (name, *ahead)
        if self.links:
            raise self._led(
                f"to /{'/'.join(names)}, where libvirt mounts something of "
                "its own"
            )
        return FollowedTarget(names)

    def _place(self) -> FollowedTarget:
        names, fd = tuple(self.names), self.fds[-1]
        if fd is not None:
            return FollowedTarget(names, os.fstat(fd).st_mode)
        return FollowedTarget(names, is_missing=self.fds[-2] is None)

    def _led(self, where: str) -> RootfsError:
        reason = f"a link in the root filesystem leads {where}"
        return RootfsError(self.target, reason)


@contextmanager
def _walk(
    root: int, target: str, covers: Mapping[Names, int]
) -> Iterator[_Walk]:
    ahead = [(name, False) for name in reversed(target.split("/"))]
    walk = _Walk(target, covers, [os.dup(root)], ahead)
    try:
        yield walk
    finally:
        for fd in walk.fds:
            _close(fd)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _identify(root: int | None, name: str) -> tuple[int, int] | None:
    """Return the device and inode of a directory, None if there is none."""
    try:
        status = os.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
