# SPDX-License-Identifier: Apache-2.0
"""Waiting for what other processes do."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

#: Seconds that a busy machine may take.
LONGEST = 300.0
T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = LONGEST) -> T:
    """Wait until something is true.

    :returns: its first true value.
    :raises AssertionError: if it is not after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not after {seconds} seconds"
        time.sleep(0.02)
    return value


@contextmanager
def hurried(factor: int = 20) -> Iterator[None]:
    """Let time pass faster for what this process sleeps through."""
    monotonic, sleep, ahead = time.monotonic, time.sleep, [0.0]

    def sleep_less(seconds: float) -> None:
        sleep(seconds / factor)
        ahead[0] += seconds - seconds / factor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", sleep_less)
        patch.setattr(time, "monotonic", lambda: monotonic() + ahead[0])
        yield
