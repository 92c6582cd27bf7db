# SPDX-License-Identifier: Apache-2.0
"""Counters of what was done, for whoever monitors a compute service."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Counters:
    """Numbers by name, which only grow, in one process.

    A name is there once it is not 0. For threads as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        """Add to a number."""
        with self._lock:
            self._numbers[name] += number

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Count something, or that it failed, and for how long it took.

        ``NAME``, ``NAME_failed``, and in either case ``NAME_ms``:
        milliseconds.
        """
        start = time.monotonic()
        outcome = f"{name}_failed"
        try:
            yield
            outcome = name
        finally:
            self.add(outcome)
            self.add(f"{name}_ms", round(1000 * (time.monotonic() - start)))

    def as_dict(self) -> dict[str, int]:
        """All numbers, by name."""
        with self._lock:
            return dict(sorted(self._numbers.items()))
