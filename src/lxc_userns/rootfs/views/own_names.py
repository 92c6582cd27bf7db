# SPDX-License-Identifier: Apache-2.0
"""Names in a root filesystem that one container alone has.

An image that many containers share has the machine ID, and often the host
name, of where it was made. systemd takes for a container with an empty
``/etc/machine-id`` the UUID that libvirt gives its first process in
``container_uuid`` (:manpage:`machine-id(5)`).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from functools import partial

from lxc_userns.linux import openat2
from lxc_userns.linux.fd import open_file, owned, reopen

_LOG = logging.getLogger(__name__)

#: What an image may have in place of a file, or above it; it is left alone.
_OTHER = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EXDEV}


def give(root: int, shown: str, hostname: str | None) -> None:
    """Give a root filesystem names of its own; nothing of it runs yet.

    What cannot be written is told, and is no reason not to start: nothing of
    the isolation depends on it.

    :param root: descriptor of its directory, which is hostile.
    :param shown: its path, for what is told.
    :param hostname: for ``/etc/hostname``; None leaves that alone.
    """
    # Else systemd takes that of D-Bus, unless it is a link.
    steps: list[Callable[[], None]] = [
        partial(_remove_file, root, "var/lib/dbus", "machine-id")
    ]
    steps.append(partial(_write, root, "machine-id", b""))
    if hostname is not None:
        text = f"{hostname}\n".encode()
        steps.append(partial(_write, root, "hostname", text, create=True))
    for step in steps:
        try:
            step()
        except OSError as err:
            if err.errno not in _OTHER:
                _LOG.warning("%s: keeps names of its image: %s", shown, err)


def _write(root: int, name: str, data: bytes, *, create: bool = False) -> None:
    """Write a file in ``/etc``; its owner and mode stay."""
    with owned(openat2.open_directory(root, "etc")) as etc:
        try:
            with open_file(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=etc) as fd:
                # To open a device can do something by itself.
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    with reopen(fd, os.O_WRONLY | os.O_TRUNC) as file:
                        os.write(file, data)
        except FileNotFoundError:
            if create:
                _create(etc, name, data)


def _create(etc: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL
    with open_file(name, flags, dir_fd=etc) as fd:
        status = os.fstat(etc)
        os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, 0o644)
        os.write(fd, data)


def _remove_file(root: int, directory: str, name: str) -> None:
    with owned(openat2.open_directory(root, directory)) as parent:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            os.unlink(name, dir_fd=parent)
