# SPDX-License-Identifier: Apache-2.0
"""Bounds on what the kernel tells of somebody hostile."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


class BoundExceededError(OSError):
    """More than what is looked at.

    :param reason: more than what, as ``has more than 10 names in /dev``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(errno.E2BIG, reason)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[BoundExceededError], tuple[str]]:
        return type(self), (str(self),)


def at_most(limit: int, items: Iterable[_T], what: str) -> Iterator[_T]:
    """Yield items one by one; what comes after is not asked for.

    :param limit: how many there may be.
    :param what: what they are, for the error.
    :raises BoundExceededError: as soon as there is one more.
    """
    for number, item in enumerate(items):
        if number == limit:
            raise BoundExceededError(f"has more than {limit} {what}")
        yield item
