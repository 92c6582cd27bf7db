# SPDX-License-Identifier: Apache-2.0
"""Processes of the host: children, peers, those in other user namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from lxc_userns.linux.process import Process


def children(pid: int) -> Iterator[int]:
    """Yield process IDs of the children of a process, each once.

    Those of its first thread come first, from a file that leaves some out
    while others end (:manpage:`proc_pid_children(5)`): whoever has found what
    it is after does not look at every process of the host.

    :param pid: process ID of the parent.
    """
    first = _first_children(pid)
    yield from first
    for number in _running():
        if number in first:
            continue
        try:
            with Process(number) as process:
                parent = process.parent
        except ProcessLookupError:
            continue
        if parent == pid:
            yield number


def _first_children(pid: int) -> list[int]:
    # ENOENT also if the kernel has no CONFIG_PROC_CHILDREN.
    with (
        suppress(FileNotFoundError, ProcessLookupError),
        open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream,
    ):
        return [*map(int, stream.read().split())]
    return []


def peers(process: Process) -> Iterator[Process]:
    """Yield all processes of the same PID and user namespace, held.

    Each is let go when the next one is asked for.
    """
    own = process.namespace("pid"), process.namespace("user")
    for number in _running():
        # Most are in others, and are told from these without being held.
        with suppress(OSError):
            status = os.stat(f"/proc/{number}/ns/pid")
            if (status.st_dev, status.st_ino) != own[0]:
                continue
        with (
            suppress(ProcessLookupError, PermissionError),
            Process(number) as peer,
        ):
            if own == (peer.namespace("pid"), peer.namespace("user")):
                yield peer


def in_other_user_namespaces() -> Iterator[Process]:
    """Yield processes whose ID maps are not the caller's, held.

    At least one of each user namespace; each is let go when the next one is
    asked for. A namespace in which no one runs, that is kept by a mount or a
    descriptor, is not seen.
    """
    with Process("self") as this:
        maps = this.uid_map, this.gid_map
    seen = {_user_namespace("self")}
    for number in _running():
        with suppress(ProcessLookupError):
            namespace = _user_namespace(number)
            if namespace is not None and namespace in seen:
                continue
            with Process(number) as process:
                found = process.uid_map, process.gid_map
                # Not before: it may have ended, and others be there.
                if namespace == _user_namespace(number):
                    seen.add(namespace)
                if found != maps:
                    yield process


def _user_namespace(pid: int | str) -> str | None:
    """Return the kernel's name of a process's user namespace.

    None if it does not tell: root without all capabilities may not trace
    every process.
    """
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except PermissionError:
        return None
    except FileNotFoundError as err:
        raise ProcessLookupError(*err.args) from None


def _running() -> Iterator[int]:
    return map(int, filter(str.isdecimal, os.listdir("/proc")))
