# SPDX-License-Identifier: Apache-2.0
"""Views mounted where the caller says, for use without libvirt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lxc_userns.arguments import checked
from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.idmap import IdMaps
from lxc_userns.linux import directory, mount_api, mounts, safe_path
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.shifting.shift import read_state
from lxc_userns.rootfs.views import mountpoints, overlay
from lxc_userns.rootfs.views.source import RootfsSource, open_source

Path = str | os.PathLike[str]


_PATH: Final = (str, os.PathLike)


@checked(source=_PATH, target=_PATH, id_maps=IdMaps)
def mount_idmapped(source: Path, target: Path, id_maps: IdMaps) -> None:
    """Mount a view of a tree with its owners shifted by the kernel.

    Nothing changes on disk. Device nodes in the view cannot be opened.

    :param source: the tree, a directory, or a raw disk image with one
        filesystem, which only root can replace, as a link to it. Its owners
        are guest IDs. Only root may be able to reach a directory.
    :param target: the directory to mount on, no link and no mount point yet.
    :param id_maps: the ID maps of those who will use the view.
    :raises NotIdmappableError: if the kernel or the filesystem cannot.
    :raises ExposedTreeError: if users of the host could reach the tree.
    :raises RootfsError: if anything else is in the way; nothing is mounted
        then.
    """
    with (
        _opened(source, id_maps, readonly=False) as tree,
        tree.idmapped(id_maps) as view,
    ):
        _attach(view, target)


@checked(lower=_PATH, state_dir=_PATH, target=_PATH, id_maps=IdMaps)
def mount_overlay(
    lower: Path, state_dir: Path, target: Path, id_maps: IdMaps
) -> None:
    """Mount a view of an image with what is changed in it kept apart.

    The image is never written to, so that many can share it. Device nodes in
    the view cannot be opened.

    :param lower: the image, as the source of :func:`mount_idmapped`.
    :param state_dir: a directory of root's, of mode 0700, for what is
        changed; made if missing. It is for this image, these ID maps and one
        mount at a time.
    :param target: the directory to mount on, no link and no mount point yet.
    :param id_maps: the ID maps of those who will use the view.
    :raises NotIdmappableError: if the kernel or a filesystem cannot.
    :raises ExposedTreeError: if users of the host could reach the image.
    :raises RootfsError: if anything else is in the way; nothing is mounted
        then.
    """
    state_path = os.path.abspath(state_dir)
    with (
        _opened(lower, id_maps, readonly=True) as tree,
        tree.idmapped(id_maps) as below,
        translated(RootfsError, state_path),
        directory.open_private(state_path, 0o700) as state,
        overlay.overlay_mount(below, tree.path, state, id_maps) as view,
    ):
        _attach(view, target)


@checked(target=_PATH)
def unmount(target: Path) -> None:
    """Unmount the topmost view of a directory.

    :param target: where it is mounted, no link.
    :raises RootfsError: if no view is mounted there, or it is in use.
    """
    path = _place(target)
    parent, name = os.path.split(path)
    with (
        translated(RootfsError, path),
        safe_path.opened(parent) as place,
        directory.opened_in(place, ".") as fd,
    ):
        if not name or not mounts.is_mount_point(fd, name):
            raise RootfsError(
                path, "nothing is mounted there; give a mount point"
            )
        with directory.opened_in(fd, name) as point:
            _check_view(point, path)
        try:
            mounts.unmount(fd, name)
        except OSError as err:
            raise RootfsError(path, mountpoints.why_busy(path, err)) from err


@contextmanager
def _opened(
    path: Path, id_maps: IdMaps, *, readonly: bool
) -> Iterator[RootfsSource]:
    name = os.fspath(path)
    with translated(RootfsError, name):
        os.stat(name)  # To abspath(), "" is the working directory.
        found = safe_path.resolve(os.path.abspath(name))
    with open_source(found, readonly=readonly) as tree:
        refusals.check_usable(tree.fd, found)
        if read_state(found, fd=tree.fd) is not None:
            raise RootfsError(
                found,
                "is shifted on disk, and would be shifted twice; unshift it "
                "first",
            )
        refusals.check_guest_root(tree.fd, found, id_maps)
        yield tree


def _attach(view: int, target: Path) -> None:
    path = _place(target)
    with (
        translated(RootfsError, path),
        safe_path.opened(path) as place,
        directory.opened_in(place, ".") as point,
    ):
        found = mounts.find_mount(point)
        if found and found.point == path:
            raise RootfsError(
                path, "something is mounted there already; unmount it first"
            )
        mount_api.attach(view, point)


def _place(target: Path) -> str:
    """Return the absolute path of a mount point, which is no link itself."""
    name = os.fspath(target)
    with translated(RootfsError, name):
        if os.path.islink(name.rstrip("/")):
            raise RootfsError(
                name, "is a symbolic link; give the directory it leads to"
            )
        os.stat(name)
        parent, last = os.path.split(os.path.abspath(name))
        return os.path.join(safe_path.resolve(parent), last)


def _check_view(point: int, path: str) -> None:
    found = mounts.find_mount(point)
    if found is None or not refusals.is_view(found):
        raise RootfsError(
            path, "what is mounted there is no view; see umount(8)"
        )
