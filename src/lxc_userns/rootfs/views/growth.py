# SPDX-License-Identifier: Apache-2.0
"""Growth of the filesystem of an image to all of its device.

By the kernel, on a mount that is nowhere attached: no program reads the
image, which is hostile input, and nobody but this process sees it. ext4 asks
for CAP_SYS_RESOURCE to be grown so, which the privileged helper does not have.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from lxc_userns.exceptions import ImageError, RootfsError
from lxc_userns.linux import growth
from lxc_userns.spec.size import format_size

if TYPE_CHECKING:
    from lxc_userns.rootfs.views.image import Image

#: How many allocation groups an xfs may have. The kernel has something in
#: memory for each, makes them one by one, and cannot be interrupted; how large
#: they are, the image says. Of the smallest that mkfs.xfs makes (16 MiB) it
#: is 1 TiB.
MOST_GROUPS: Final = 1 << 16

#: Blocks of btrfs have no more bytes; its size is whole blocks.
_BTRFS_LARGEST_BLOCK = 1 << 16


def can_grow(fs_type: str) -> bool:
    """Return whether filesystems of a type are grown at all."""
    return fs_type in _GROW


def grow(image: Image, root: int) -> None:
    """Grow a filesystem, unless it is as large as its device.

    :param image: its image, of a type that can be grown; it is written to.
    :param root: descriptor of its root directory, mounted.
    :raises ImageError: if it would have more allocation groups than
        :data:`MOST_GROUPS`.
    :raises RootfsError: if its driver cannot.
    """
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
