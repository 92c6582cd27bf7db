# SPDX-License-Identifier: Apache-2.0
"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

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
