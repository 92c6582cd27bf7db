# SPDX-License-Identifier: Apache-2.0
"""Read-only btrfs subvolumes in a tree: nothing in them can change owners.

Snapshots mostly are read-only. Where one is below the root directory of a
tree, a shift would end in its middle.
"""

from __future__ import annotations

import os

from lxc_userns.linux import subvolumes
from lxc_userns.rootfs.shifting import kernel_paths
from lxc_userns.rootfs.shifting.walk import open_directory


class ReadOnlySubvolumes:
    """Those that a walk has come to.

    :param root: descriptor of the root directory of the tree.

    ``paths`` are as the kernel names them.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        # Each subvolume is a device by itself.
        self._seen: set[int] = set()
        self.paths: set[str] = set()

    @staticmethod
    def is_one(st: os.stat_result) -> bool:
        """Return whether a directory may be that of a subvolume."""
        return st.st_ino == subvolumes.DIRECTORY_INODE

    def note(self, st: os.stat_result) -> None:
        """Keep the path of the subvolume at hand if it is read-only.

        :param st: status of the working directory.
        """
        if st.st_dev in self._seen:
            return
        self._seen.add(st.st_dev)
        fd = open_directory(".")
        try:
            if subvolumes.is_in_read_only(fd):
                fd = self._climb(fd)
                self.paths.add(kernel_paths.of_directory(fd))
        finally:
            os.close(fd)

    def _climb(self, fd: int) -> int:
        """Go up to the directory of the subvolume, or that of the tree."""
        while not (
            self.is_one(os.fstat(fd)) or os.path.sameopenfile(fd, self._root)
        ):
            parent = open_directory("..", dir_fd=fd)
            os.close(fd)
            fd = parent
        return fd
