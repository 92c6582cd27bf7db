# SPDX-License-Identifier: Apache-2.0
"""Directories and files of control groups, as who runs on the host has them.

See :manpage:`cgroups(7)`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lxc_userns.linux.fd import open_file

_PROCESSES = "cgroup.procs"
#: A file of a group; values are short, lists of processes are not.
_LONGEST = 16 << 20


def read(group: str, name: str) -> str | None:
    """Return what a file of a group says, None if there is no such file.

    :param group: the directory.
    :raises OSError: if it cannot be read.
    """
    try:
        fd = os.open(f"{group}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, encoding="ascii", errors="replace") as stream:
        return stream.read(_LONGEST).strip()


def write(group: str, name: str, value: str) -> None:
    """Write to a file of a group.

    :raises OSError: with the path, if the kernel refuses the value.
    """
    path = f"{group}/{name}"
    with open_file(path, os.O_WRONLY | os.O_TRUNC) as fd:
        try:
            os.write(fd, value.encode("ascii"))
        except OSError as err:
            raise OSError(err.errno, err.strerror, path) from None


def make(group: str) -> None:
    """Make a group of root's and those above it, unless they are there.

    Everybody may look, whatever the process's umask: one above is libvirt's.
    """
    path = Path(group)
    for each in (*reversed(path.parents), path):
        with suppress(FileExistsError):
            os.mkdir(each, 0o755)
            os.chmod(each, 0o755)  # noqa: S103 - as those of libvirt.


def remove(group: str) -> bool:
    """Remove a group without processes; whether it has gone.

    :raises OSError: if that fails for another reason.
    """
    try:
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError as err:
        # Processes that have just ended, or a group below.
        if err.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def enable(group: str, controllers: Iterable[str]) -> None:
    """Give controllers of version 2 to the groups below a group.

    Each by itself, for one that is not to be had must not keep back others.
    """
    for controller in controllers:
        with suppress(OSError):
            write(group, "cgroup.subtree_control", f"+{controller}")


def processes(group: str) -> set[int]:
    """Return the process IDs in a group and all below it."""
    found: set[int] = set()
    for path, _, names in os.walk(group):
        if _PROCESSES in names:
            with suppress(OSError):  # A group that has just gone.
                found.update(map(int, (read(path, _PROCESSES) or "").split()))
    return found


def move(pid: int, group: str) -> None:
    """Move a process with all its threads into a group.

    Nothing happens if it has ended.

    :raises OSError: if the kernel refuses.
    """
    with suppress(ProcessLookupError):
        write(group, _PROCESSES, str(pid))
