# SPDX-License-Identifier: Apache-2.0
"""Limit of descriptors of this process (:manpage:`getrlimit(2)`)."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _SoftLimit:
    """The soft limit, raised as long as one thread needs it to be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0

    def raise_it(self) -> None:
        with self._lock:
            if not self._users:
                self._before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            self._users += 1

    def lower_it(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                # Somebody may have lowered the hard one since.
                soft = min(self._before, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_soft_limit = _SoftLimit()


@contextmanager
def many() -> Iterator[None]:
    """Raise the soft limit of descriptors to the hard one for a while.

    The soft one is mostly 1024, lest a program call :manpage:`select(2)` with
    a higher number. Programs executed meanwhile inherit the raised one.
    """
    _soft_limit.raise_it()
    try:
        yield
    finally:
        _soft_limit.lower_it()
