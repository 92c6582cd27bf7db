# SPDX-License-Identifier: Apache-2.0
"""Counters."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lxc_userns.counters import Counters


def test_of_several_threads() -> None:
    counters = Counters()

    def work(_: int) -> None:
        for _each in range(100):
            counters.add("b", 2)
            with counters.counting("a"):
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = counters.as_dict()
    assert found.pop("a_ms") >= 0
    assert found == {"a": 800, "b": 1600}
    assert json.loads(json.dumps(found)) == found


def test_failures_are_counted_apart() -> None:
    counters = Counters()
    with pytest.raises(KeyError), counters.counting("x"):
        raise KeyError("x")
    found = counters.as_dict()
    del found["x_ms"]
    assert found == {"x_failed": 1}
