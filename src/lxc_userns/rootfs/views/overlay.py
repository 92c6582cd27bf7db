# SPDX-License-Identifier: Apache-2.0
"""Overlays: one image for many containers, what each changes on top.

The image is an idmapped layer below, which no one writes to. The upper layer
holds shifted owners on disk, so the state directory of an instance is for
one pair of ID maps only, and says for which.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lxc_userns.exceptions import NotIdmappableError, RootfsError, reason_of
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.linux import directory, locks, mount_api, mounts
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.shifting import acl
from lxc_userns.rootfs.shifting.state import State
from lxc_userns.rootfs.shifting.tree import open_tree

Shift = Callable[[str, int, IdMaps], object]

_UPPER, _WORK, _LOWER = "upper", "work", "lower"
_MAPS = "trusted.lxc_userns.overlay"
# What an image says in overlayfs's own extended attributes must not count,
# nor what the kernel was built or loaded to do by default.
_OPTIONS = {"redirect_dir": "nofollow", "metacopy": "off", "nfs_export": "off"}
# With an index, the kernel refuses an upper layer that is mounted already or
# belongs to another image, and hard links stay linked when they are changed.
_INDEX = {"index": "on"}
_NO_ATTRIBUTE = (errno.ENODATA, errno.EOPNOTSUPP)
_UNSUPPORTED = (errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def overlay_mount(
    lower: int, path: str, state: int, id_maps: IdMaps
) -> Iterator[int]:
    """Make an overlay on an image, mounted nowhere yet.

    Device nodes in it cannot be opened (``nodev``).

    :param lower: descriptor of the root of a detached idmapped mount.
    :param path: the image as the caller knows it.
    :param state: descriptor of the state directory.
    :param id_maps: what the lower layer is idmapped with.
    :returns: descriptor of the view; it is gone afterwards unless attached.
    :raises NotIdmappableError: if overlayfs cannot be had here.
    :raises RootfsError: if the state directory is for other ID maps, another
        image, or a view that is mounted.
    """
    with _locked(state):
        _prepare_state(state, lower, path, id_maps)
        with _attached(state, lower):
            view = _mount(state, path)
    with owned(view):
        yield view


def reshift(state: int, id_maps: IdMaps, shift: Shift) -> None:
    """Shift an upper layer that is not mounted to other ID maps.

    Nothing happens if it is for these, or not there yet. To be called again
    if it was interrupted.

    :param state: descriptor of the state directory.
    :param shift: shifts a tree, given its path, descriptor and ID maps.
    :raises RootfsError: if it cannot be shifted.
    """
    with _locked(state):
        found = _read_maps(state)
        if found is None:
            return
        with directory.opened_in(state, _UPPER) as upper:
            if found != str(id_maps):
                # Like any tree, the layer says itself how far it is.
                _note_maps(upper, _parse_maps(found))
                shift(_shown(upper), upper, id_maps)
                _own_work(state, id_maps)
                _write_maps(state, str(id_maps))
            with open_tree(_shown(upper), shared=False, fd=upper) as tree:
                tree.forget()


def _note_maps(upper: int, maps: IdMaps) -> None:
    with open_tree(_shown(upper), shared=False, fd=upper) as tree:
        if tree.read_state() is None:
            tree.write_state(State(maps))


def unmount_leftovers(state: int) -> None:
    """Unmount what a crash has left mounted in a state directory.

    :param state: descriptor of the state directory.
    """
    with suppress(FileNotFoundError):
        while mounts.is_mount_point(state, _LOWER):
            mounts.unmount(state, _LOWER, lazy=True)


@contextmanager
def _locked(state: int) -> Iterator[None]:
    # Two at a time would take away each other's lower layer.
    if not locks.try_lock(state):
        reason = "an overlay is being mounted with it just now; try again"
        raise RootfsError(_shown(state), reason)
    try:
        yield
    finally:
        fcntl.flock(state, fcntl.LOCK_UN)


@contextmanager
def _attached(state: int, lower: int) -> Iterator[None]:
    # Before Linux 6.15 overlayfs takes no detached mount for a layer. It has
    # a copy of its own once it is mounted.
    directory.make_in(state, _LOWER, 0o700)
    unmount_leftovers(state)
    with directory.opened_in(state, _LOWER) as target:
        mount_api.attach(lower, target)
    try:
        yield
    finally:
        mounts.unmount(state, _LOWER, lazy=True)


def _prepare_state(state: int, lower: int, path: str, id_maps: IdMaps) -> None:
    """Make the layers, or see that they are for these ID maps."""
    wanted = str(id_maps)
    found = _read_maps(state)
    if found == wanted:
        return
    if found is not None:
        raise RootfsError(
            _shown(state),
            f"holds what was changed on {path} with the ID maps {found}, not "
            f"{wanted}; use those, or remove it",
        )
    with _made_layer(state, _WORK, id_maps):
        pass
    with _made_layer(state, _UPPER, id_maps) as upper:
        os.fchmod(upper, stat.S_IMODE(os.fstat(lower).st_mode))
        _copy_acls(lower, upper, path)
    _write_maps(state, wanted)


def _own_work(state: int, id_maps: IdMaps) -> None:
    with directory.opened_in(state, _WORK) as work:
        os.fchown(work, *id_maps.root)


@contextmanager
def _made_layer(state: int, name: str, id_maps: IdMaps) -> Iterator[int]:
    directory.make_in(state, name, 0o700)
    with directory.opened_in(state, name) as fd:
        if os.listdir(fd):
            raise RootfsError(
                f"{_shown(state)}/{name}",
                "is not empty, and nothing says what it belongs to; remove it",
            )
        os.fchown(fd, *id_maps.root)
        yield fd


def _copy_acls(lower: int, upper: int, path: str) -> None:
    # Of the root directory, overlayfs shows the upper one's alone, and with
    # an ACL the mode says something else.
    for name in (acl.ACCESS, acl.DEFAULT):
        try:
            value = os.getxattr(_link(lower), name)
        except OSError as err:
            if err.errno in _NO_ATTRIBUTE:
                continue
            raise
        try:
            os.setxattr(upper, name, value)
        except OSError as err:
            raise RootfsError(
                path,
                "its root directory has an ACL that cannot be had in the "
                f"upper layer, with IDs that are not mapped: {err.strerror}",
            ) from err


def _read_maps(state: int) -> str | None:
    """Return the ID maps that a state directory is for, None if it is new."""
    try:
        return os.getxattr(state, _MAPS).decode("ascii", "replace")
    except OSError as err:
        if err.errno in _NO_ATTRIBUTE:
            return None
        raise


def _parse_maps(text: str) -> IdMaps:
    uid, _, gid = text.partition(" ")
    return IdMaps(IdMap.parse(uid), IdMap.parse(gid))


def _write_maps(state: int, maps: str) -> None:
    try:
        os.setxattr(state, _MAPS, maps.encode("ascii"))
    except OSError as err:
        raise RootfsError(
            _shown(state),
            "cannot hold the upper layer of an overlay, its filesystem keeps "
            f"no trusted.* extended attributes: {err.strerror}",
        ) from err


def _mount(state: int, path: str) -> int:
    layers = {
        f"{name}dir": f"{_link(state)}/{name}"
        for name in (_LOWER, _UPPER, _WORK)
    }
    options = {
        "source": refusals.OVERLAY_SOURCE,
        **layers,
        **_OPTIONS,
        **_INDEX,
    }
    try:
        return mount_api.mount("overlay", options, mount_api.MOUNT_ATTR_NODEV)
    except OSError as err:
        reason = _explain(state, err)
        if err.errno in _UNSUPPORTED:
            raise NotIdmappableError(path, reason) from err
        raise RootfsError(path, reason) from err


def _explain(state: int, err: OSError) -> str:
    shown = _shown(state)
    said = reason_of(err).replace(_link(state), shown)
    if err.errno in _UNSUPPORTED:
        return (
            "no overlay with an idmapped layer below, which Linux 5.19 can, "
            f"and its upper layer in {shown} can be made: {said}"
        )
    if err.errno == errno.EBUSY:
        return (
            f"its overlay in {shown} is mounted already, here or in another "
            "mount namespace"
        )
    if err.errno == errno.ESTALE:
        return (
            f"it is another image than what {shown} holds changes of; give "
            "that one, or remove those"
        )
    return f"no overlay with its upper layer in {shown}: {said}"


def _shown(state: int) -> str:
    return os.readlink(_link(state))


def _link(fd: int) -> str:
    # For what takes paths only.
    return f"/proc/self/fd/{fd}"
