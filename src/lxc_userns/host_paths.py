# SPDX-License-Identifier: Apache-2.0
"""Paths of the host that a request gives: looked up, and refused."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns import own_paths
from lxc_userns.config import allowed_paths
from lxc_userns.exceptions import NeedsError, RootfsError, translated
from lxc_userns.instances import path_lookup
from lxc_userns.instances.conflicts import overlap
from lxc_userns.linux import block_devices
from lxc_userns.linux.safe_path import Trust
from lxc_userns.spec.requirements import Device

if TYPE_CHECKING:
    from lxc_userns.config.settings import Settings


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Paths of the host that a request may give.

    :param settings: values of our options.
    :param roots: directories below which files of the host have to be; None:
        they may be anywhere.
    """

    settings: Settings
    roots: tuple[str, ...] | None = None

    def resolve(self, path: str) -> str:
        """Return the absolute path of a root filesystem.

        Of a block device it is the one that the kernel knows: by other names
        below ``/dev`` there are links, which are root's.

        :raises RootfsError: if it is not there, where it may not be, or among
            our own files; or others could replace it.
        """
        self.check_below_roots(path)
        with translated(RootfsError, path):
            os.stat(path)  # To abspath(), "" is the working directory.
            rootfs = block_devices.resolve(os.path.abspath(path))
        with self.opened(rootfs):
            pass
        self.check_not_ours(rootfs, "give the directory of a root filesystem")
        return rootfs

    def opened(self, path: str) -> AbstractContextManager[int]:
        """Open a path; see :func:`path_lookup.opened`."""
        return path_lookup.opened(path, Trust(self.roots or ()))

    def find_device(self, path: str, what: str = "device") -> Device:
        """Return a device of the host.

        :param what: how an error names it.

        :raises RootfsError: if it is where it may not be.
        :raises NeedsError: if it is not there, or is none.
        """
        self.check_below_roots(path)
        with translated(NeedsError, what, path):
            mode = os.stat(path, follow_symlinks=False).st_mode
        if stat.S_ISCHR(mode):
            return Device(path, "char")
        if stat.S_ISBLK(mode):
            return Device(path, "block")
        raise NeedsError(
            what,
            path,
            "is not a device node (symbolic links are not accepted)",
        )

    def check_below_roots(self, path: str) -> None:
        """Check that a path is below the roots, by its text.

        :raises RootfsError: if it is anywhere else.
        """
        if self.roots is not None:
            allowed_paths.check_below(path, self.roots)

    def check_not_ours(self, path: str, advice: str) -> None:
        """Check that a path and our own files are apart.

        :param advice: what to do if they are not.
        :raises RootfsError: if one is in the other.
        """
        for name in own_paths.CHECKS:
            ours = os.path.realpath(getattr(self.settings, name))
            if overlap(path, ours):
                raise RootfsError(
                    path,
                    f"contains, or is in, [lxc_userns] {name} ({ours}); "
                    f"{advice}",
                )
