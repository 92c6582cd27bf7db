# SPDX-License-Identifier: Apache-2.0
"""Idmapped mounts: owners shifted by the kernel as it shows them.

See the kernel's Documentation/filesystems/idmappings.rst and
:manpage:`mount_setattr(2)`. On disk nothing changes, and the cost does not
depend on the number of files.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from lxc_userns.exceptions import NotIdmappableError, RootfsError
from lxc_userns.linux import mount_api, mounts, user_namespaces
from lxc_userns.linux.fd import owned

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMap, IdMaps

#: What to do instead, by type of filesystem; None if the kernel is too old.
Remedy = Callable[[str | None], str]

_AS_EXT4 = "mount it with type ext4, whose driver reads it as well"
#: Filesystems that can be idmapped under another type.
REMEDIES = {"ext2": _AS_EXT4, "ext3": _AS_EXT4}
_OVERLAY = (
    "its layers can be: take its lower directory, and the strategy overlay"
)
_UNCLONED = {
    errno.EPERM: "no permission, CAP_SYS_ADMIN is needed in the user "
    "namespace that this mount namespace belongs to",
    errno.EINVAL: "it is unbindable, or of another mount namespace, or hides "
    "what must stay hidden here",
}


def user_namespace(id_maps: IdMaps) -> AbstractContextManager[int]:
    """Return a user namespace that maps as the ID maps do, for mounts."""
    return user_namespaces.create(_rows(id_maps.uid), _rows(id_maps.gid))


def _another_strategy(fs_type: str | None) -> str:
    if fs_type is None:
        return "take the strategy chown"
    otherwise = "take another filesystem, or the strategy chown"
    return {**REMEDIES, "overlay": _OVERLAY}.get(fs_type, otherwise)


@contextmanager
def idmapped_mount(
    fd: int,
    path: str,
    id_maps: IdMaps,
    attributes: int,
    remedy: Remedy = _another_strategy,
) -> Iterator[int]:
    """Make an idmapped view of a file or directory, mounted nowhere yet.

    :param fd: descriptor of it. What is mounted below it is left out.
    :param path: the same as the caller knows it.
    :param attributes: ``MOUNT_ATTR_*`` of the view.
    :param remedy: what to do if it cannot be had, for the error.
    :returns: descriptor of the view; it is gone afterwards unless attached.
    :raises NotIdmappableError: if the kernel or its filesystem cannot.
    :raises RootfsError: if it cannot be mounted at all.
    """
    with cloned_mount(fd, path, attributes, remedy) as mount:
        set_idmap(mount, path, id_maps, fd, remedy)
        yield mount


@contextmanager
def cloned_mount(
    fd: int,
    path: str,
    attributes: int,
    remedy: Remedy = _another_strategy,
) -> Iterator[int]:
    """Make a second mount of a file or directory, mounted nowhere yet.

    :param fd: descriptor of it. What is mounted below it is left out, now
        and later.
    :param path: the same as the caller knows it.
    :param attributes: ``MOUNT_ATTR_*`` to add to those of its own mount.
    :param remedy: what to do if it cannot be had, for the error.
    :raises NotIdmappableError: if the kernel has no such mounts.
    :raises RootfsError: if it cannot be mounted.
    """
    try:
        mount = mount_api.clone_mount(fd)
    except OSError as err:
        if err.errno == errno.ENOSYS:
            reason = _explain(err, fd, remedy)
            raise NotIdmappableError(path, reason) from err
        why = _UNCLONED.get(err.errno or 0, err.strerror)
        raise RootfsError(path, f"its mount cannot be copied: {why}") from err
    with owned(mount):
        with _explained(path, fd, remedy):
            mount_api.set_attributes(mount, attributes)
        yield mount


def set_idmap(
    mount: int,
    path: str,
    id_maps: IdMaps,
    origin: int | str,
    remedy: Remedy = _another_strategy,
) -> None:
    """Give a detached mount ID maps.

    :param mount: descriptor of its root.
    :param path: what it shows, as the caller knows it.
    :param origin: for the error, a descriptor on the mount that it was
        cloned from, or the type of its filesystem.
    :param remedy: what to do if it cannot be had, for the error.
    :raises NotIdmappableError: if the kernel or its filesystem cannot.
    :raises RootfsError: if no user namespace with the ID maps can be made.
    """
    try:
        with (
            user_namespace(id_maps) as namespace,
            _explained(path, origin, remedy),
        ):
            mount_api.set_id_maps(mount, namespace)
    except OSError as err:
        reason = f"no user namespace for its ID maps: {err.strerror or err}"
        raise RootfsError(path, reason) from err


def check_possible(fd: int, path: str, namespace: int) -> None:
    """Try to make an idmapped view of a directory, and leave no trace.

    :param fd: descriptor of it.
    :param path: the same as the caller knows it.
    :param namespace: descriptor of a user namespace with ID maps.
    :raises NotIdmappableError: if the kernel or its filesystem cannot.
    :raises RootfsError: if it cannot be mounted at all.
    """
    with cloned_mount(fd, path, 0) as mount, _explained(path, fd):
        mount_api.set_id_maps(mount, namespace)


@contextmanager
def _explained(
    path: str, origin: int | str, remedy: Remedy = _another_strategy
) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        reason = _explain(err, origin, remedy)
        raise NotIdmappableError(path, reason) from err


def _explain(err: OSError, origin: int | str, remedy: Remedy) -> str:
    if err.errno == errno.ENOSYS:
        return (
            "this kernel has no idmapped mounts, Linux 5.12 has; "
            f"{remedy(None)}"
        )
    found = mounts.find_mount(origin) if isinstance(origin, int) else None
    fs_type = found.fs_type if found else str(origin)
    if err.errno == errno.EPERM and found and "idmapped" in found.options:
        return (
            f"it is on an idmapped mount of {fs_type} already, {found.point};"
            " give the directory which that shows"
        )
    reasons = {
        errno.EINVAL: f"{fs_type} cannot be idmapped by this kernel; "
        + remedy(fs_type),
        errno.EPERM: f"no permission to idmap {fs_type}: CAP_SYS_ADMIN is "
        "needed in the user namespace that mounted it",
        errno.EBUSY: f"{fs_type} is busy: files are open for writing on the "
        "mount",
    }
    otherwise = f"{fs_type} cannot be idmapped: {err.strerror}"
    return reasons.get(err.errno or 0, otherwise)


def _rows(id_map: IdMap) -> list[tuple[int, int, int]]:
    return [(entry.guest, entry.host, entry.count) for entry in id_map]
