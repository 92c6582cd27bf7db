# SPDX-License-Identifier: Apache-2.0
"""Views: the mounts that containers use as filesystems.

A view of the instance ``web1`` is mounted on ``run_path/web1/TARGET`` and
stays for as long as its domain may run: libvirt reads the path again when the
container reboots itself. Directories below ``run_path`` are only ever removed
empty, so nothing that is still mounted can be deleted through them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lxc_userns import rootfs
from lxc_userns.exceptions import ConfigError, RootfsError
from lxc_userns.idmap import IdMaps
from lxc_userns.linux import directory, inroot, mounts

#: Mode of ``run_path`` and all in it: passed through, never listed.
_MODE = 0o711
#: What libvirt mounts on before the container's own root holds, in the
#: order it does; a link here would lead it out of the root filesystem.
_MOUNTED_BY_LIBVIRT = (".oldroot", "dev", "proc", "sys")


@dataclass(frozen=True, slots=True)
class Backing:
    """A root filesystem at hand.

    :param path: absolute path without links.
    :param fd: descriptor of that directory.
    """

    path: str
    fd: int


@dataclass(frozen=True, slots=True)
class ShiftOptions:
    """How to do what has to be done on disk; see :func:`rootfs.shift`."""

    unmapped: str = "keep"
    recheck: bool = False
    workers: int | None = None
    progress: Callable[[int], None] | None = None


class Strategy(Protocol):
    """How files of a root filesystem come to belong to the mapped IDs.

    ID maps are None for a container in the host's user namespace.
    """

    def make_ready(
        self, backing: Backing, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Do on disk what has to be done once; cheap if it is done."""

    def mount(
        self, backing: Backing, parent: int, name: str, id_maps: IdMaps | None
    ) -> None:
        """Mount the view of a tree on ``parent/name``."""

    def is_mounted(
        self, backing: Backing, parent: int, name: str, id_maps: IdMaps | None
    ) -> bool:
        """Whether this very view is mounted on ``parent/name``."""


class Plain:
    """The tree as it is, for a container without ID maps."""

    def make_ready(
        self, backing: Backing, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Refuse a tree that is shifted: its root would be nobody's."""
        if rootfs.read_state(backing.path, fd=backing.fd) is not None:
            raise RootfsError(
                backing.path,
                "is shifted, and no ID maps are configured; configure them "
                "or unshift it first",
            )
        _add_oldroot(backing, (0, 0))

    def mount(
        self, backing: Backing, parent: int, name: str, id_maps: IdMaps | None
    ) -> None:
        """Bind it, ``nodev``."""
        mounts.bind(backing.fd, parent, name)

    def is_mounted(
        self, backing: Backing, parent: int, name: str, id_maps: IdMaps | None
    ) -> bool:
        """Whether what is mounted is this directory, ``nodev``."""
        if not mounts.is_mount_point(parent, name):
            return False
        with directory.opened_in(parent, name) as fd:
            same = os.path.samestat(os.fstat(fd), os.fstat(backing.fd))
            return same and bool(os.fstatvfs(fd).f_flag & os.ST_NODEV)


class Chown(Plain):
    """Owners shifted on disk; works on every Unix filesystem."""

    def make_ready(
        self, backing: Backing, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Shift it."""
        if id_maps is None:
            raise ValueError("chown needs ID maps")
        rootfs.shift(
            backing.path,
            id_maps,
            fd=backing.fd,
            unmapped=options.unmapped,
            recheck=options.recheck,
            workers=options.workers,
            progress=options.progress,
        )
        uid, gid = id_maps.shift_uid(0), id_maps.shift_gid(0)
        if uid is not None and gid is not None:
            _add_oldroot(backing, (uid, gid))


#: What a container without ID maps has.
PLAIN = "plain"
#: Strategies by name, the best first.
STRATEGIES: dict[str, Strategy] = {"chown": Chown(), PLAIN: Plain()}
#: Those that ``[lxc_userns] rootfs_strategy`` can name, besides ``auto``.
AVAILABLE = tuple(name for name in STRATEGIES if name != PLAIN)


def choose(name: str, id_maps: IdMaps | None) -> str:
    """The strategy for a root filesystem.

    :param name: value of ``[lxc_userns] rootfs_strategy``.
    :raises ConfigError: if it is none of those that there are.
    """
    if id_maps is None:
        return PLAIN
    if name == "auto":
        return AVAILABLE[0]
    if name not in AVAILABLE:
        raise ConfigError(
            "[lxc_userns] rootfs_strategy",
            name,
            f"is not available; use auto or {' or '.join(AVAILABLE)}",
        )
    return name


@contextmanager
def opened_rootfs(path: str) -> Iterator[Backing]:
    """Open a root filesystem, and check what libvirt will mount on.

    :param path: absolute path without links.
    :raises RootfsError: if it is no directory, or has a link or a file where
        libvirt needs a directory.
    """
    with translated(path), directory.opened(path) as fd:
        for name in _MOUNTED_BY_LIBVIRT:
            try:
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                raise RootfsError(
                    f"{path}/{name}", "has to be a directory, or absent"
                )
        yield Backing(path, fd)


def check_program(backing: Backing, path: str) -> None:
    """Check that a root filesystem has a program, before it is shifted.

    :param path: absolute path in the container.
    :raises RootfsError: if there is no such file.
    """
    try:
        mode = inroot.lookup(backing.fd, path).st_mode
    except OSError as err:
        if err.errno == errno.ENOSYS:
            return
        raise RootfsError(
            backing.path, f"has no {path}: {err.strerror}"
        ) from err
    if not (stat.S_ISREG(mode) and mode & 0o111):
        raise RootfsError(backing.path, f"{path} in it is no program")


def _add_oldroot(backing: Backing, owner: tuple[int, int]) -> None:
    # libvirt would make it too, and leaves it; this way it is in order
    # before anything of the container runs.
    name = _MOUNTED_BY_LIBVIRT[0]
    directory.make_in(backing.fd, name, 0o755)
    with directory.opened_in(backing.fd, name) as made:
        status = os.fstat(made)
        if (status.st_uid, status.st_gid) != owner:
            os.fchown(made, *owner)


class Views:
    """The views of a host.

    :param run_path: directory that holds them; made when first used, and
        checked at every use.
    """

    def __init__(self, run_path: str) -> None:
        self._path = run_path

    def path(self, instance: str, target: str) -> str:
        """Where a view of an instance is, or would be."""
        return f"{self._path}/{instance}/{target}"

    def mount(
        self,
        strategy: Strategy,
        backing: Backing,
        instance: str,
        target: str,
        id_maps: IdMaps | None,
    ) -> None:
        """Mount a view; one that is there and right is kept.

        :raises ConfigError: if ``run_path`` cannot be used.
        """
        with (
            self._translated(),
            directory.made_inside(self._path, _MODE, instance, _MODE) as fd,
        ):
            self._check_passable()
            _close_to_others(fd, id_maps)
            directory.make_in(fd, target, _MODE)
            if not strategy.is_mounted(backing, fd, target, id_maps):
                _unmount(fd, target)
                strategy.mount(backing, fd, target, id_maps)

    def is_mounted(self, instance: str) -> bool:
        """Whether an instance has any view mounted."""
        with self._instance(instance) as parent:
            return parent is not None and any(
                mounts.is_mount_point(parent, name)
                for name in os.listdir(parent)
            )

    def unmount(self, instance: str) -> None:
        """Unmount all views of an instance and remove their mount points.

        :raises RootfsError: if one is busy, with what is mounted below.
        """
        with self._instance(instance) as parent:
            if parent is None:
                return
            for name in os.listdir(parent):
                try:
                    _unmount(parent, name)
                    os.rmdir(name, dir_fd=parent)
                except OSError as err:
                    path = self.path(instance, name)
                    raise RootfsError(path, _why_busy(path, err)) from err
        with (
            self._translated(),
            directory.owned(self._path, _MODE, create=False) as run,
            suppress(FileNotFoundError),
        ):
            os.rmdir(instance, dir_fd=run)

    @contextmanager
    def _instance(self, instance: str) -> Iterator[int | None]:
        """The directory of an instance, None if it is not there."""
        with (
            self._translated(),
            directory.inside(self._path, _MODE, instance) as fd,
        ):
            yield fd

    def _check_passable(self) -> None:
        # The container's root walks down to its view as the mapped user,
        # whom the host gives no rights: all need the x of others.
        path = Path(self._path).resolve()
        for each in (path, *path.parents):
            if not each.stat().st_mode & stat.S_IXOTH:
                raise PermissionError(
                    f"users of containers cannot pass through {each}; it "
                    "needs mode o+x"
                )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise ConfigError(
                "[lxc_userns] run_path", self._path, err.strerror or str(err)
            ) from err


def _close_to_others(fd: int, id_maps: IdMaps | None) -> None:
    """Let only the container pass to its views.

    A file of the image may have set-user-ID and an owner that the ID maps do
    not cover: in the hands of a user of the host it would be a way to the
    rights of that owner.
    """
    if id_maps is None:
        os.fchmod(fd, 0o700)
        return
    group = id_maps.shift_gid(0)
    if group is None:
        raise ValueError("guest group 0 is not mapped")
    # A chown to the same group changes nothing, but in the other order the
    # old group could pass for a moment.
    os.fchmod(fd, 0o700)
    os.fchown(fd, -1, group)
    os.fchmod(fd, 0o710)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise an ``OSError`` as :class:`RootfsError` of this path."""
    try:
        yield
    except OSError as err:
        raise RootfsError(path, err.strerror or str(err)) from err


def _unmount(parent: int, name: str) -> None:
    while mounts.is_mount_point(parent, name):
        mounts.unmount(parent, name)


def _why_busy(path: str, err: OSError) -> str:
    if err.errno != errno.EBUSY:
        return err.strerror or str(err)
    prefix = f"{Path(path).resolve()}/"
    below = [
        mount.point
        for mount in mounts.read_mounts()
        if mount.point.startswith(prefix)
    ]
    if below:
        return f"is busy: unmount {', '.join(below)} first"
    return "is busy: a process works in it"
