# SPDX-License-Identifier: Apache-2.0
"""Filesystems mounted by descriptor (:manpage:`fsopen(2)`)."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from lxc_userns.linux import libc, threads
from lxc_userns.linux.fd import owned

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

# On every architecture but Alpha.
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432

_fsopen = libc.system_call(ctypes.c_char_p, ctypes.c_uint)
_fsconfig = libc.system_call(
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_int,
)
_fsmount = libc.system_call(ctypes.c_int, ctypes.c_uint, ctypes.c_uint)

_LONGEST_MESSAGE = 8192


def mount(
    fs_type: str, options: Mapping[str, str | None], attributes: int
) -> int:
    """Mount a filesystem nowhere: on no directory.

    :param fs_type: the filesystem's type, as in ``/proc/filesystems``.
    :param options: its parameters; None for one that takes no value. What
        one names by ``/proc/self/fd/N`` is looked up once, now.
    :param attributes: ``MOUNT_ATTR_*`` of the mount.
    :returns: an ``O_PATH`` descriptor of its root; closing it unmounts it,
        unless it was attached.
    :raises OSError: ENOSYS before Linux 5.2, ENODEV if the kernel has no such
        filesystem; its text is what the filesystem says is wrong, if it says
        anything.
    """
    with owned(
        _fsopen(_SYS_FSOPEN, fs_type.encode(), FSOPEN_CLOEXEC)
    ) as context:
        for key, value in options.items():
            _configure(context, key, value)
        _call(context, FSCONFIG_CMD_CREATE, None, None)
        return _fsmount(_SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)


def mount_device(
    fs_type: str,
    path: str,
    device: int,
    options: Mapping[str, str | None],
    attributes: int,
) -> int:
    """Mount the filesystem of a block device, out of reach of all others.

    btrfs opens further devices by the paths under which the kernel came to
    know them, whatever is in a superblock. They are looked up from the root
    directory of the thread that mounts, which has this device alone.

    :param path: absolute path by which the device is to be known.
    :param device: its number, as ``st_rdev`` has it.
    :returns: as :func:`mount`.
    :raises OSError: as :func:`mount`; EPERM without CAP_MKNOD and
        CAP_SYS_CHROOT.
    """
    source = {"source": path, **options}
    if not threads.has_native_threads():
        # A root directory of its own would be that of the whole process.
        return mount(fs_type, source, attributes)

    def mount_alone() -> int:
        threads.unshare_working_directory()
        with owned(mount("tmpfs", {"mode": "700"}, 0)) as root:
            _enter(root, path, device)
            return mount(fs_type, source, attributes)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(mount_alone).result()


def _enter(root: int, path: str, device: int) -> None:
    """Enter a root directory with nothing in it but a block device."""
    os.fchdir(root)
    os.chroot(".")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.mknod(path, stat.S_IFBLK | 0o600, device)


def _configure(context: int, key: str, value: str | None) -> None:
    if value is None:
        _call(context, FSCONFIG_SET_FLAG, key.encode(), None)
    else:
        text = os.fsencode(value)
        _call(context, FSCONFIG_SET_STRING, key.encode(), text)


def _call(
    context: int, command: int, key: bytes | None, value: bytes | None
) -> None:
    try:
        _fsconfig(_SYS_FSCONFIG, context, command, key, value, 0)
    except OSError as err:
        said = _read_messages(context)
        raise OSError(err.errno, said or err.strerror) from None


def _read_messages(context: int) -> str:
    """Read the error messages of the filesystem."""
    messages = []
    with suppress(OSError):  # ENODATA: nothing more.
        while True:
            message = os.read(context, _LONGEST_MESSAGE)
            kind, _, text = message.decode(errors="replace").partition(" ")
            if kind == "e":
                messages.append(text.strip())
    return "; ".join(messages)
