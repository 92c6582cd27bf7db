# SPDX-License-Identifier: Apache-2.0
"""Block devices, and what the host does with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lxc_userns.linux.mounts import read_mounts

_SYSFS = Path("/sys/dev/block")
_SWAPS = Path("/proc/swaps")


def in_use(device: int) -> bool:
    """Whether the host has something mounted from a block device.

    From it or a partition of it, or swaps on it, or has made another device
    of it, as of a volume group.

    :param device: its number, as of ``st_rdev``.
    """
    parts = {*_parts(f"{os.major(device)}:{os.minor(device)}")}
    if any(_has_holders(part) for part in parts):
        return True
    known = [*read_mounts()]
    used = {mount.device for mount in known}
    # The number of a mount is not its device's for btrfs.
    sources = {mount.source for mount in known}
    used |= {*map(_number, (*sources, *_swaps()))}
    return bool(parts & used)


def _parts(number: str) -> Iterator[str]:
    yield number
    with suppress(OSError):
        for entry in (_SYSFS / number).iterdir():
            # Of all in it, only partitions have a number.
            with suppress(OSError):
                yield (entry / "dev").read_text(encoding="ascii").strip()


def _has_holders(number: str) -> bool:
    with suppress(OSError):
        return bool(os.listdir(_SYSFS / number / "holders"))
    return False


def _swaps() -> Iterator[str]:
    with suppress(FileNotFoundError):
        for line in _SWAPS.read_text(encoding="utf-8").split("\n")[1:]:
            if line:
                yield line.split()[0]


def _number(path: str) -> str:
    if path.startswith("/dev/"):
        with suppress(OSError):
            status = os.stat(path)
            if stat.S_ISBLK(status.st_mode):
                rdev = status.st_rdev
                return f"{os.major(rdev)}:{os.minor(rdev)}"
    return ""
