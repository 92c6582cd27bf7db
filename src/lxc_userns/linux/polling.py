# SPDX-License-Identifier: Apache-2.0
"""Pipes of threads of every kind, also of eventlet's green ones."""

from __future__ import annotations

import os
import select


def wait(*fds: int, timeout: float | None = None) -> set[int]:
    """Wait until one of some descriptors can be read, or has ended.

    :param timeout: seconds after which to give up, None for never.
    :returns: those that can be read.
    """
    if not hasattr(select, "poll"):
        # Eventlet has taken it away; its own select() has no limit.
        return {*select.select(fds, [], [], timeout)[0]}
    # select() takes none above 1023, which a compute service may well have.
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {
        fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)
    }


def write(fd: int, data: bytes | memoryview) -> int:
    """Write to a pipe, as :func:`os.write` does.

    Where eventlet has replaced that, it tries for ever once no one reads.

    :returns: how many bytes.
    :raises BrokenPipeError: if no one reads from the pipe.
    """
    return os.writev(fd, (data,))
