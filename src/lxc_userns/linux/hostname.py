# SPDX-License-Identifier: Apache-2.0
"""The host name (:manpage:`uts_namespaces(7)`)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from lxc_userns.linux import programs


@contextmanager
def preserve() -> Iterator[None]:
    """Restore the host name afterwards."""
    before = socket.gethostname()
    try:
        yield
    finally:
        if socket.gethostname() != before:
            socket.sethostname(before)


def write(namespace: int, name: str) -> None:
    """Set the host name of another UTS namespace.

    Nothing happens if it is the caller's own.

    :param namespace: descriptor of it.
    :raises OSError: if it cannot be set, with the reason.
    """
    own = os.stat("/proc/self/ns/uts")
    if os.path.samestat(os.fstat(namespace), own):
        return
    # A thread could enter it, but need not be one to the kernel. The program
    # is the host's: of the namespaces it enters this one alone.
    programs.run(
        [
            "nsenter",
            f"--uts=/proc/self/fd/{namespace}",
            *("sh", "-c", 'echo "$1" >/proc/sys/kernel/hostname', "sh", name),
        ],
        pass_fds=(namespace,),
    )
