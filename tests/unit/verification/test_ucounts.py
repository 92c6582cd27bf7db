# SPDX-License-Identifier: Apache-2.0
"""Limits of what all containers share."""

from lxc_userns.verification.ucounts import halve


def test_half_of_each() -> None:
    assert halve({"a": 128, "b": 1, "c": 0, "d": 7, "e": 2**31 - 1}) == {
        "a": 64,
        "b": 1,
        "d": 3,
        "e": 2**30 - 1,
    }
