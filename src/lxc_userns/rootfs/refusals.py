# SPDX-License-Identifier: Apache-2.0
"""Root directories that no shift and no view is for.

A view shows owners that are on no disk: what is changed by what it shows is
changed wrongly. And a root directory that belongs to an ID which the maps do
not have is nobody's in the container, with all that is in it.
"""

from __future__ import annotations

import errno
import os

from lxc_userns.exceptions import RootfsError
from lxc_userns.idmap import CONTAINER_IDS, IdMaps
from lxc_userns.linux import mounts
from lxc_userns.linux.mounts import Mount

#: What the list of mounts says of where an overlay of ours comes from.
OVERLAY_SOURCE = "lxc-userns"
#: Attribute of a directory that an unpacked tree is being moved into.
INTERRUPTED = "trusted.lxc_userns.unpacking"


def is_view(mount: Mount) -> bool:
    """Return whether a mount shows other owners, or is an overlay of ours."""
    return "idmapped" in mount.options or (
        mount.fs_type == "overlay" and mount.source == OVERLAY_SOURCE
    )


def check_no_view(fd: int, path: str) -> None:
    """Refuse what is seen through a view.

    :param fd: descriptor of a file or directory.
    :param path: the same as the caller knows it.
    :raises RootfsError: if it is on an idmapped mount, or on an overlay as
        :func:`lxc_userns.rootfs.mount_overlay` makes them. What is mounted
        nowhere, as the filesystem of an image, is no view.
    """
    found = mounts.find_mount(fd)
    if found is not None and is_view(found):
        kind = "overlay" if found.fs_type == "overlay" else "idmapped mount"
        raise RootfsError(
            path,
            f"is seen through a view, the {kind} on {found.point}; give the "
            "directory which that shows",
        )


def check_usable(fd: int, path: str) -> None:
    """Refuse a root directory that nothing may be made of.

    :param fd: descriptor of it.
    :param path: the same as the caller knows it.
    :raises RootfsError: as :func:`check_no_view`, or if a part of a tree is
        missing: an unpacking was interrupted as it put that in its place.
    """
    check_no_view(fd, path)
    try:
        # By path, for the descriptor may be an O_PATH one.
        os.getxattr(f"/proc/self/fd/{fd}", INTERRUPTED)
    except OSError as err:
        if err.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return
        raise
    raise RootfsError(
        path,
        "was unpacked, and that was interrupted; unpack to it again, which "
        "puts the rest in place",
    )


def check_root_owner(
    path: str, owner: tuple[int, int], id_maps: IdMaps, *, is_covered: bool
) -> None:
    """Refuse a root directory whose owner the ID maps do not cover.

    :param path: the directory as the caller knows it.
    :param owner: its user and group ID on disk.
    :param id_maps: the ID maps that it is to be used with.
    :param is_covered: whether they cover both, as what is done takes them.
    :raises RootfsError: if not, with the remedies.
    """
    if is_covered:
        return
    uid, gid = owner
    remedy = "chown it to the container's root or another guest ID"
    if min(owner) >= CONTAINER_IDS:
        maps = f"--uid-map 0:{uid}:COUNT --gid-map 0:{gid}:COUNT"
        remedy = (
            "if it is shifted for other ID maps, and the mark of that is "
            f"lost, shift it for those first ({maps}); else {remedy}"
        )
    raise RootfsError(
        path,
        f"belongs to {uid}:{gid}, which the ID maps {id_maps} do not cover, "
        f"so that all in it would be nobody's; {remedy}",
    )


def check_guest_root(fd: int, path: str, id_maps: IdMaps) -> None:
    """Refuse a root directory whose owner is no guest ID of the maps.

    :param fd: descriptor of it, on no view.
    :param path: the same as the caller knows it.
    :raises RootfsError: as :func:`check_root_owner`.
    """
    status = os.fstat(fd)
    owner = status.st_uid, status.st_gid
    found = id_maps.shift_uid(owner[0]), id_maps.shift_gid(owner[1])
    check_root_owner(path, owner, id_maps, is_covered=None not in found)
