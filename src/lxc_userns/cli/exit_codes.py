# SPDX-License-Identifier: Apache-2.0
"""Exit codes of the commands, by the error that ended them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from lxc_userns.exceptions import (
    InspectionError,
    IsolationError,
    LibvirtUnreachableError,
    NoSuchContainerError,
    NotRunningError,
)

FAILED, UNSEEN, NO_SUCH = 1, 4, 5
#: Of a command that ends as another program does, for a failure of its own.
OWN_FAILURE = 125
_UNSEEN = (
    InspectionError,
    LibvirtUnreachableError,
    MemoryError,
    NotRunningError,
)
_RANK = (0, NO_SUCH, UNSEEN, FAILED)
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error.

    :returns: 5 if there is no such container; 4 if containers could not be
        looked at: without libvirtd, not as root, short of memory or
        descriptors, or one does not run; else 1.
    """
    if isinstance(error, NoSuchContainerError):
        return NO_SUCH
    if isinstance(error, IsolationError):
        return FAILED  # It was destroyed, whatever was short.
    is_unseen = isinstance(error, _UNSEEN) or any(map(_lacks, _chain(error)))
    return UNSEEN if is_unseen else FAILED


def worst(one: int, other: int) -> int:
    """Return the worse of two exit codes of :func:`exit_code`, or of 0.

    What failed is worse than what could not be looked at, and that worse than
    what is not there.
    """
    return max(one, other, key=_RANK.index)


def _lacks(error: BaseException) -> bool:
    """Return whether rights, memory or descriptors were lacking."""
    if isinstance(error, PermissionError):
        return os.geteuid() != 0
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
