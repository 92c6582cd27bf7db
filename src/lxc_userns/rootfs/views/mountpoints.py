# SPDX-License-Identifier: Apache-2.0
"""Views: the mounts that containers use as filesystems.

A view of the instance ``web1`` is mounted on ``run_path/web1/NAME`` and
stays for as long as its domain may run: libvirt reads the path again when the
container reboots itself. Directories below ``run_path`` are only ever removed
empty, so nothing that is still mounted can be deleted through them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

from lxc_userns import own_paths
from lxc_userns.exceptions import RootfsError, reason_of
from lxc_userns.linux import directory, mounts
from lxc_userns.linux.fd import open_file

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps

#: Mode of ``run_path`` and all in it: passed through, never listed.
_MODE = 0o711

#: Mounts on a mount point, given the descriptor of its directory and its
#: name.
Mounter = Callable[[int, str], None]


class Views:
    """The views of a host.

    :param run_path: directory that holds them; made when first used, and
        checked at every use.
    """

    def __init__(self, run_path: str) -> None:
        self._path = run_path

    def path(self, instance: str, name: str) -> str:
        """Return where a view of an instance is, or would be."""
        return f"{self._path}/{instance}/{name}"

    def mount(
        self,
        instance: str,
        name: str,
        id_maps: IdMaps | None,
        mounter: Mounter,
        *,
        is_directory: bool = True,
    ) -> None:
        """Mount a view; one that is there is replaced.

        :param mounter: does it.
        :param is_directory: whether the mount point is to be a directory, or
            a file.
        :raises ConfigError: if ``run_path`` cannot be used.
        :raises RootfsError: if the view that is there is busy.
        """
        with (
            self._translated(),
            directory.make_subdir(self._path, _MODE, instance, _MODE) as fd,
        ):
            directory.check_passable(self._path)
            _close_to_others(fd, id_maps)
            self._remove(fd, instance, name)
            _make_point(fd, name, is_directory)
            mounter(fd, name)

    @contextmanager
    def opened(self, instance: str, name: str) -> Iterator[int]:
        """Open the root of a view that is mounted, a directory."""
        with (
            self.opened_path(instance, name) as path,
            directory.opened_in(path, ".") as fd,
        ):
            yield fd

    @contextmanager
    def opened_path(self, instance: str, name: str) -> Iterator[int]:
        """Open the root of a view that is mounted, of any kind: ``O_PATH``."""
        flags = os.O_PATH | os.O_NOFOLLOW
        with self._instance(instance) as parent:
            if parent is None:
                path = self.path(instance, name)
                raise RootfsError(path, "is not mounted")
            with open_file(name, flags, dir_fd=parent) as fd:
                yield fd

    def is_mounted(self, instance: str) -> bool:
        """Return whether an instance has any view mounted."""
        with self._instance(instance) as parent:
            return parent is not None and any(
                _is_view(parent, name) for name in _names(parent)
            )

    def unmount(self, instance: str) -> None:
        """Unmount all views of an instance and remove their mount points.

        :raises RootfsError: if one is busy, with what is mounted below.
        """
        with self._instance(instance) as parent:
            if parent is None:
                return
            for name in os.listdir(parent):
                self._remove(parent, instance, name)
        with (
            self._translated(),
            directory.open_private(self._path, _MODE, create=False) as run,
            suppress(FileNotFoundError),
        ):
            os.rmdir(instance, dir_fd=run)

    def _remove(self, parent: int, instance: str, name: str) -> None:
        """Unmount a view and remove its mount point, if it is there."""
        try:
            _unmount(parent, name)
        except FileNotFoundError:
            pass
        except OSError as err:
            path = self.path(instance, name)
            raise RootfsError(path, why_busy(path, err)) from err

    @contextmanager
    def _instance(self, instance: str) -> Iterator[int | None]:
        """Open the directory of an instance, None if it is not there."""
        with (
            self._translated(),
            directory.open_subdir(self._path, _MODE, instance) as fd,
        ):
            yield fd

    def _translated(self) -> AbstractContextManager[None]:
        return own_paths.translated("run_path", self._path)


def _close_to_others(fd: int, id_maps: IdMaps | None) -> None:
    """Let only the container pass to its views.

    A file of the image may have set-user-ID and an owner that the ID maps do
    not cover: in the hands of a user of the host it would be a way to the
    rights of that owner.
    """
    if id_maps is None:
        os.fchmod(fd, 0o700)
        return
    _, group = id_maps.root
    # A chown to the same group changes nothing, but in the other order the
    # old group could pass for a moment.
    os.fchmod(fd, 0o700)
    os.fchown(fd, -1, group)
    os.fchmod(fd, 0o710)


def _names(parent: int) -> list[str]:
    # Who unmounts views may remove the directory that is open here.
    with suppress(FileNotFoundError):
        return os.listdir(parent)
    return []


def _is_view(parent: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        return mounts.is_mount_point(parent, name)
    return False


def _unmount(parent: int, name: str) -> None:
    while mounts.is_mount_point(parent, name):
        mounts.unmount(parent, name)
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        os.rmdir(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def _make_point(parent: int, name: str, is_directory: bool) -> None:
    if is_directory:
        directory.make_in(parent, name, _MODE)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open_file(name, flags, dir_fd=parent):
        pass


def why_busy(path: str, err: OSError) -> str:
    """Return what keeps a view from being unmounted."""
    if err.errno != errno.EBUSY:
        return reason_of(err)
    below = mounts.points_below(os.path.realpath(path))
    if below:
        return f"is busy: unmount {', '.join(below)} first"
    return "is busy: a process works in it"
