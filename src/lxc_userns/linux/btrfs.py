# SPDX-License-Identifier: Apache-2.0
"""Mounted btrfs filesystems (``/sys/fs/btrfs``)."""

from __future__ import annotations

from pathlib import Path

_SYSFS = Path("/sys/fs/btrfs")


def mixes_equal_ids() -> bool:
    """Return whether a device joins a filesystem by its UUID alone.

    Since Linux 6.7 one that is a filesystem by itself does not: it is mounted
    under a UUID made up for it if there is another of the same.
    """
    return not (_SYSFS / "features/temp_fsid").exists()


def devices_of(fsid: str) -> list[str]:
    """Return the devices of a mounted filesystem, none if it is not mounted.

    :param fsid: its UUID.
    :returns: names as in ``/sys/block``, in order.
    """
    try:
        return sorted(
            each.name for each in _SYSFS.joinpath(fsid, "devices").iterdir()
        )
    except FileNotFoundError:
        return []
