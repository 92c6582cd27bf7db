# SPDX-License-Identifier: Apache-2.0
"""Base of every error, and errors of system calls translated to one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LxcUsernsError(Exception):
    """Base of all errors of this package."""


def reason_of(err: OSError) -> str:
    """Return what a system call's error says, without number and path."""
    return err.strerror or str(err)


@contextmanager
def translated(kind: type[LxcUsernsError], *about: str) -> Iterator[None]:
    """Raise a system call's error as one of this package.

    :param kind: the class, whose last argument is the reason.
    :param about: its other arguments.
    :raises LxcUsernsError: in place of any OSError.
    """
    try:
        yield
    except OSError as err:
        raise kind(*about, reason_of(err)) from err
