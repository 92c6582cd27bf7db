# SPDX-License-Identifier: Apache-2.0
"""Bounds on what the kernel tells of somebody hostile."""

import copy
import errno
from itertools import count

import pytest

from lxc_userns.linux.bounds import BoundExceededError, at_most


def test_as_many_as_there_may_be() -> None:
    assert [*at_most(3, "abc", "letters")] == ["a", "b", "c"]
    assert [*at_most(0, "", "letters")] == []


def test_one_more() -> None:
    found = at_most(3, count(), "numbers")
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BoundExceededError, match="has more than 3 numbers"):
        next(found)


def test_the_rest_is_not_asked_for() -> None:
    every = count()
    with pytest.raises(BoundExceededError):
        [*at_most(3, every, "numbers")]
    assert next(every) == 4


def test_a_copy() -> None:
    err = copy.copy(BoundExceededError("too many"))
    assert (err.errno, str(err)) == (errno.E2BIG, "too many")
