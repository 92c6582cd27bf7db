# SPDX-License-Identifier: Apache-2.0
"""State directory of an instance, which it loses when it is released."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import directory, mounts
from lxc_userns.rootfs.views import overlay

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.rootfs.views.overlay import Shift

_NAME, _MODE = "private", 0o700
_OVERLAY, _ROOTFS = "overlay", "rootfs"


class PrivateFiles:
    """The private files of all instances of a host.

    :param state_path: directory of root's that holds them, closed to others.
    """

    def __init__(self, state_path: str) -> None:
        self._state_path = state_path

    def overlay(self, instance: str) -> str:
        """Return where the state of its overlay is, or would be."""
        return f"{self._path(instance)}/{_OVERLAY}"

    def rootfs(self, instance: str) -> str:
        """Return where its archive is unpacked, or would be."""
        return f"{self._path(instance)}/{_ROOTFS}"

    @contextmanager
    def opened(self, instance: str) -> Iterator[int]:
        """Open the directory of an instance, made if missing."""
        with (
            translated(RootfsError, self._path(instance)),
            directory.make_subdir(
                self._state_path, _MODE, _NAME, _MODE
            ) as private,
        ):
            directory.make_in(private, instance, _MODE)
            with directory.opened_in(private, instance) as fd:
                yield fd

    def reshift(self, instance: str, id_maps: IdMaps, shift: Shift) -> None:
        """Shift its overlay, if it has one, to other ID maps.

        :param shift: as for :func:`overlay.reshift`.
        """
        with self.opened(instance) as fd:
            if _OVERLAY in os.listdir(fd):
                with directory.opened_in(fd, _OVERLAY) as state:
                    overlay.reshift(state, id_maps, shift)

    def remove(self, instance: str) -> None:
        """Remove all that an instance has; nothing happens if it has nothing.

        :raises RootfsError: if something is mounted in it.
        """
        path = self._path(instance)
        with (
            translated(RootfsError, path),
            directory.open_subdir(self._state_path, _MODE, _NAME) as private,
        ):
            if private is None or instance not in os.listdir(private):
                return
            self._unmount_leftovers(private, instance)
            _check_nothing_mounted(private, instance, path)
            directory.remove_tree(private, instance)

    def _path(self, instance: str) -> str:
        return f"{self._state_path}/{_NAME}/{instance}"

    def _unmount_leftovers(self, private: int, instance: str) -> None:
        with directory.opened_in(private, instance) as fd:
            if _OVERLAY not in os.listdir(fd):
                return
            with directory.opened_in(fd, _OVERLAY) as state:
                overlay.unmount_leftovers(state)


def _check_nothing_mounted(private: int, instance: str, path: str) -> None:
    prefix = f"{os.readlink(f'/proc/self/fd/{private}')}/{instance}/"
    below = [
        mount.point
        for mount in mounts.read_mounts()
        if mount.point.startswith(prefix)
    ]
    if below:
        reason = f"is not removed: unmount {', '.join(below)} first"
        raise RootfsError(path, reason)
