# SPDX-License-Identifier: Apache-2.0
"""Limits of what unpacking one archive may take."""

from __future__ import annotations

from dataclasses import dataclass

from lxc_userns.spec.size import format_size

#: The least memory that tar and what decompresses can be given.
LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """Limits of unpacking one archive.

    :param max_bytes: bytes of what is in the archive, and of the new tree on
        disk.
    :param max_inodes: files of the archive, each name of a hard link counted,
        and directories that are made for them.
    :param max_memory: bytes of address space of tar, and of what decompresses
        for it, each; at least 64 MiB.
    """

    max_bytes: int = 64 << 30
    max_inodes: int = 4_000_000
    max_memory: int = 1 << 30

    @property
    def bytes_exceeded(self) -> str:
        """Return why an archive with more bytes is not unpacked."""
        size = format_size(self.max_bytes)
        return _exceeds(f"unpacks to more than {size}", "max_bytes")

    @property
    def inodes_exceeded(self) -> str:
        """Return why one with more files is not unpacked."""
        reason = f"has more than {self.max_inodes} files"
        return _exceeds(reason, "max_inodes")

    @property
    def memory_exceeded(self) -> str:
        """Return why one that needs more memory is not unpacked."""
        size = format_size(self.max_memory)
        reason = f"needs more than {size} of memory to be unpacked"
        return _exceeds(reason, "max_memory")


def _exceeds(reason: str, option: str) -> str:
    return f"{reason}; raise [lxc_userns] unpack_{option} if it may"
