# SPDX-License-Identifier: Apache-2.0
"""Counts of failures since the boot of the host, for who watches it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

from lxc_userns.exceptions import (
    IsolationError,
    LxcUsernsError,
    NotRunningError,
)
from lxc_userns.linux import directory, locks
from lxc_userns.linux.boot import read_boot_id
from lxc_userns.linux.fd import open_file

_FILE, _LOCK, _MODE = "failures.json", "failures.lock", 0o700
#: Seconds to wait for others; a lost count is better than a late hook.
_PATIENCE = 1.0


class Failure(StrEnum):
    """Kind of a failure.

    ``PREPARATION``: a container was not prepared, and so not started.
    ``DIFFERENCE``: one was not as promised. ``INSPECTION``: one could not be
    looked at.
    """

    PREPARATION = "preparation"
    DIFFERENCE = "difference"
    INSPECTION = "inspection"


class Failures:
    """Counts of failures, in a file below the state path.

    :param state_path: directory of root's that holds it, closed to others.
    """

    def __init__(self, state_path: str) -> None:
        self._path = state_path

    def read(self) -> Counter[Failure]:
        """Return the counts; none if they are of an earlier boot."""
        with (
            suppress(OSError),
            directory.open_private(self._path, _MODE, create=False) as fd,
        ):
            return _read(fd)
        return Counter()

    def add(self, kind: Failure) -> None:
        """Count a failure; nothing happens if it cannot be written."""
        with (
            suppress(OSError),
            directory.open_private(self._path, _MODE) as fd,
            locks.held(fd, _LOCK, limit=_PATIENCE),
        ):
            counts: dict[str, str | int] = {"boot_id": read_boot_id()}
            counts |= _read(fd) + Counter([kind])
            directory.replace_file(fd, _FILE, json.dumps(counts))

    @contextmanager
    def counting(self, kind: Failure | None = None) -> Iterator[None]:
        """Count an error of the body.

        :param kind: what any error counts as; None for those of a
            verification, of which a container that does not run is none.
        """
        try:
            yield
        except (LxcUsernsError, OSError) as err:
            found = kind or _kind_of(err)
            if found is not None:
                self.add(found)
            raise


def _kind_of(err: Exception) -> Failure | None:
    if isinstance(err, IsolationError):
        return Failure.DIFFERENCE
    if isinstance(err, NotRunningError):
        return None
    return Failure.INSPECTION


def _read(place: int) -> Counter[Failure]:
    """Read the counts; whatever else is there counts as none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with open_file(_FILE, flags, dir_fd=place) as fd:
            counts = json.loads(os.read(fd, 4096))
        if counts.pop("boot_id") == read_boot_id():
            return Counter({Failure(k): int(n) for k, n in counts.items()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return Counter()
