# SPDX-License-Identifier: Apache-2.0
"""Limits of what unpacking one archive may take."""

from __future__ import annotations

from dataclasses import dataclass

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
