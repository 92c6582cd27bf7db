# SPDX-License-Identifier: Apache-2.0
"""Block devices, and what the host does with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lxc_userns.linux import safe_path
from lxc_userns.linux.mounts import read_mounts

_SYSFS = Path("/sys/dev/block")
_SWAPS = Path("/proc/swaps")
#: Files of sysfs with a name that a disk keeps: device mapper's (LVM, crypt),
#: that of SCSI and NVMe, and a serial number.
_LASTING_NAMES = (
    "dm/uuid",
    "wwid",
    "device/wwid",
    "serial",
    "device/serial",
)


def in_use(device: int) -> bool:
    """Return whether the host has something mounted from a block device.

    From it or a partition of it, or swaps on it, or has made another device
    of it, as of a volume group.

    :param device: its number, as of ``st_rdev``.
    """
    parts = {*_parts(_text(device))}
    if any(_has_holders(part) for part in parts):
        return True
    known = [*read_mounts()]
    used = {mount.device for mount in known}
    # The number of a mount is not its device's for btrfs.
    sources = {mount.source for mount in known}
    used |= {*map(_number, (*sources, *_swaps()))}
    return bool(parts & used)


def resolve(path: str) -> str:
    """Return the path of a block device without links, another as it is.

    :param path: absolute path; only below ``/dev`` links count, where the
        device manager has made them (:manpage:`udev(7)`).
    """
    if path.startswith("/dev/") and stat.S_ISBLK(os.stat(path).st_mode):
        return safe_path.resolve(path)
    return path


def hardware_name(device: int) -> str:
    """Return a name by which a block device is known after a reboot.

    :param device: its number, as of ``st_rdev``.
    :returns: the name, with the number of a partition; empty if it has none.
    """
    place = (_SYSFS / _text(device)).resolve()
    partition = _read(place / "partition")
    disk = place.parent if partition else place
    for name in _LASTING_NAMES:
        if value := _read(disk / name):
            return f"{name} {value} {partition}".strip()
    return ""


def disk_sequence(device: int) -> str:
    """Return the number that the kernel gave to what is in a device now.

    It grows with each disk or file that is attached, so that it is never
    given twice in one boot (sysfs-block, diskseq).

    :param device: its number, as of ``st_rdev``.
    :returns: the number as text; empty before Linux 5.15.
    """
    place = (_SYSFS / _text(device)).resolve()
    disk = place.parent if _read(place / "partition") else place
    return _read(disk / "diskseq")


def _text(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def name(device: int) -> str:
    """Return the kernel's name of a block device, as ``loop0``.

    :param device: its number, as of ``st_rdev``.
    """
    return (_SYSFS / _text(device)).resolve().name


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
                return _text(status.st_rdev)
    return ""
