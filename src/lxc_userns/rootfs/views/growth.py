# SPDX-License-Identifier: Apache-2.0
"""Growth of the filesystem of an image to all of its device.

xfs and btrfs by the kernel, on a mount that is nowhere attached: no program
reads the image, which is hostile input, and no one but this process sees it.
ext4 before it is mounted, by
:mod:`~lxc_userns.rootfs.views.ext4_tools`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from lxc_userns.exceptions import ImageError, RootfsError
from lxc_userns.linux import growth
from lxc_userns.rootfs.views import ext4_tools, superblock
from lxc_userns.spec.size import format_size
from lxc_userns.text import escape, printable

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.rootfs.views.image import Image

_LOG = logging.getLogger(__name__)

#: How many allocation groups an xfs may have. The kernel has something in
#: memory for each, makes them one by one, and cannot be interrupted; how large
#: they are, the image says. Of the smallest that mkfs.xfs makes (16 MiB) it
#: is 1 TiB. So many of ext4, which resize2fs makes one by one, are 8 TiB as
#: mkfs.ext4 makes them, and 512 GiB in an image that began smaller than that.
MOST_GROUPS: Final = 1 << 16

#: Blocks of btrfs have no more bytes; its size is whole blocks.
_BTRFS_LARGEST_BLOCK = 1 << 16
#: resize2fs leaves the end of a device alone where that has no room for the
#: tables of a group, which take less than this part of one.
_EXT4_LEAST = 8
#: nobody and nogroup, for a container without users of its own.
_NOBODY = (65534, 65534)


def can_grow(fs_type: str) -> bool:
    """Return whether filesystems of a type are grown at all."""
    return fs_type == "ext4" or fs_type in _GROW


def grow_unmounted(image: Image, id_maps: IdMaps | None) -> None:
    """Grow an ext4, unless it is about as large as its device.

    One that its tools do not grow stays as it is, with a warning: it has
    errors, or features that they do not know.

    :param image: its image, written to and not mounted; of another type
        nothing is done.
    :param id_maps: those of the container, as whose root it is done.
    """
    if image.fs_type != "ext4":
        return
    size = os.lseek(image.fd, 0, os.SEEK_END)
    head = os.pread(image.fd, superblock.LENGTH, 0)
    found = superblock.ext_geometry(head)
    if found is None:
        return
    blocks = size // found.block_size
    if blocks < found.blocks + max(1, found.group_blocks // _EXT4_LEAST):
        return
    groups = -(-blocks // found.group_blocks)
    user = _NOBODY if id_maps is None else id_maps.root
    try:
        if groups > MOST_GROUPS:
            raise OSError(None, f"it would have {groups} block groups")
        ext4_tools.run(image.fd, user)
    except OSError as err:
        _LOG.warning(
            "%s: its ext4 is not grown to %s, and stays as it is: %s",
            printable(image.path),
            format_size(size),
            escape(err.strerror or str(err)),
        )


def grow(image: Image, root: int) -> None:
    """Grow a filesystem, unless it is as large as its device.

    :param image: its image, written to; for ext4 nothing is done.
    :param root: descriptor of its root directory, mounted.
    :raises ImageError: if it would have more allocation groups than
        :data:`MOST_GROUPS`.
    :raises RootfsError: if its driver cannot.
    """
    if image.fs_type not in _GROW:
        return
    size = os.lseek(image.fd, 0, os.SEEK_END)
    try:
        _GROW[image.fs_type](image, root, size)
    except OSError as err:
        raise RootfsError(
            image.path,
            f"its {image.fs_type} cannot be grown to {format_size(size)}: "
            f"{err.strerror}",
        ) from err


def _grow_xfs(image: Image, root: int, size: int) -> None:
    found = growth.xfs_geometry(root)
    blocks = size // found.block_size
    if blocks <= found.blocks:
        return
    groups = -(-blocks // found.group_blocks)
    if groups > MOST_GROUPS:
        group = format_size(found.group_blocks * found.block_size)
        raise ImageError(
            image.path,
            f"its xfs would have {groups} allocation groups of {group} at "
            f"{format_size(size)}, and may have {MOST_GROUPS}; make it anew "
            "with larger ones",
        )
    growth.grow_xfs(root, found, blocks)


def _grow_btrfs(_: Image, root: int, size: int) -> None:
    number, has = growth.btrfs_device(root)
    if has + _BTRFS_LARGEST_BLOCK <= size:
        growth.grow_btrfs(root, number)


_GROW: Mapping[str, Callable[[Image, int, int], None]] = {
    "xfs": _grow_xfs,
    "btrfs": _grow_btrfs,
}
