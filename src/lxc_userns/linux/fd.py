# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are closed by who opened them."""

from __future__ import annotations

import os
from contextlib import contextmanager

TYPE_CHECKING = False  # A worker process loads this, and has to start quickly.
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


@contextmanager
def owned(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the body."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def closed_on_error(fd: int) -> Iterator[int]:
    """Close a descriptor if the body fails, else leave it open."""
    try:
        yield fd
    except BaseException:
        os.close(fd)
        raise


@contextmanager
def open_file(
    path: str | bytes | os.PathLike[str],
    flags: int,
    mode: int = 0o600,
    *,
    dir_fd: int | None = None,
) -> Iterator[int]:
    """Open a file for the body.

    :param flags: those of :manpage:`open(2)`; ``O_CLOEXEC`` is added.
    :param mode: permissions of a file that is made.
    :param dir_fd: descriptor of the directory that a relative path is in.
    :raises OSError: as :func:`os.open`.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def reopen(fd: int, flags: int) -> AbstractContextManager[int]:
    """Open the file of a descriptor anew, whatever has become of its path.

    :param flags: as for :func:`open_file`.
    :raises OSError: as :func:`os.open`.
    """
    return open_file(f"/proc/self/fd/{fd}", flags)
