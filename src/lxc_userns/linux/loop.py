# SPDX-License-Identifier: Apache-2.0
"""Loop devices: image files as disks (:manpage:`loop(4)`)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lxc_userns.linux import locks
from lxc_userns.linux.fd import open_file, owned

LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LOOP_GET_STATUS64 = 0x4C05
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82

_CONTROL = "/dev/loop-control"
_DEVICES = Path("/sys/block")
#: How often to try again when somebody else was faster to take a device.
_TRIES = 64
#: Seconds in which a device that no one has any more goes.
_PATIENCE = 1.0
_POLL = 0.02


class loop_info64(ctypes.Structure):
    """``struct loop_info64`` of ``linux/loop.h``."""

    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_char * 64),
        ("lo_crypt_name", ctypes.c_char * 64),
        ("lo_encrypt_key", ctypes.c_char * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class loop_config(ctypes.Structure):
    """``struct loop_config`` of ``linux/loop.h``."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", loop_info64),
        ("reserved", ctypes.c_uint64 * 8),
    )


@contextmanager
def attached(
    image: int,
    name: str,
    *,
    readonly: bool,
    part: Callable[[], tuple[int, int]] | None = None,
) -> Iterator[tuple[int, str]]:
    """Make a disk of an image file, for one that writes or many that read.

    The kernel frees the device with the last that uses it: this context, or
    a filesystem that was mounted from it meanwhile, however it ends.

    :param image: descriptor of the file, opened for this alone, and for
        writing unless ``readonly``.
    :param name: what tools shall show for it, at most 63 bytes of it.
    :param part: returns where the disk begins in the file, and its length,
        both in bytes and multiples of 512; called when no one else has the
        file as a disk. None: it is all of the file.
    :returns: descriptor and path of the block device.
    :raises BlockingIOError: if the file is a disk already, and either is
        written to.
    :raises OSError: ENOENT or ENXIO without loop devices, EINVAL before Linux
        5.8.
    """
    with locks.held_for("image", image):
        _check_free(image, readonly)
        place = part() if part else (0, 0)
        device, path = _configure(image, name, readonly, place)
    with owned(device):
        yield device, path


def _check_free(image: int, readonly: bool) -> None:
    """Check that an image file is no disk, unless all only read.

    Two disks of one file, each with a cache that knows nothing of the other,
    would destroy the filesystem in it. What counts is what the kernel has: a
    lock on the file could be held by all who can read it.
    """
    deadline = time.monotonic() + _PATIENCE
    status = os.fstat(image)
    while found := _find_in_the_way(status, readonly):
        device, flags = found
        # Unmounted, it goes with whoever has just looked at it as we do.
        goes = flags & LO_FLAGS_AUTOCLEAR
        if not goes or time.monotonic() > deadline:
            reason = f"it is /dev/{device.name}"
            raise BlockingIOError(errno.EAGAIN, reason)
        time.sleep(_POLL)


def _find_in_the_way(
    image: os.stat_result, readonly: bool
) -> tuple[Path, int] | None:
    for device, flags in _devices_of(image):
        read = (device / "ro").read_text(encoding="ascii").strip() == "1"
        if not (readonly and read):
            return device, flags
    return None


def _devices_of(image: os.stat_result) -> Iterator[tuple[Path, int]]:
    """Yield the disks that a file is, and their flags."""
    for bound in _DEVICES.glob("loop*/loop"):
        device = bound.parent
        # A device can go meanwhile.
        with suppress(OSError):
            info = _read(device.name)
            if (info.lo_device, info.lo_inode) == (image.st_dev, image.st_ino):
                yield device, info.lo_flags


def _read(name: str) -> loop_info64:
    """Ask the kernel which file a disk is made of, and how.

    Its path, in sysfs, would be one of another mount namespace.
    """
    with open_file(f"/dev/{name}", os.O_RDONLY) as fd:
        found = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(loop_info64()))
    return loop_info64.from_buffer_copy(found)


def _configure(
    image: int, name: str, readonly: bool, part: tuple[int, int]
) -> tuple[int, str]:
    config = loop_config(fd=image)
    config.info.lo_offset, config.info.lo_sizelimit = part
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR
    if readonly:
        config.info.lo_flags |= LO_FLAGS_READ_ONLY
    config.info.lo_file_name = os.fsencode(name)[:63]
    mode = os.O_RDONLY if readonly else os.O_RDWR
    for _ in range(_TRIES):
        path = f"/dev/loop{_find_free()}"
        device = os.open(path, mode | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, bytes(config))
        except BaseException as err:
            os.close(device)
            if not (isinstance(err, OSError) and err.errno == errno.EBUSY):
                raise
        else:
            return device, path
    raise OSError(errno.EBUSY, "no loop device is free")


def _find_free() -> int:
    with open_file(_CONTROL, os.O_RDWR) as control:
        return fcntl.ioctl(control, LOOP_CTL_GET_FREE)
