# SPDX-License-Identifier: Apache-2.0
"""What a container may use of what all share."""

import pytest

from lxc_userns import host
from lxc_userns.limits import share


def test_half_of_each() -> None:
    assert share({"a": 128, "b": 1, "c": 0, "d": 7, "e": 2**31 - 1}) == {
        "a": 64,
        "b": 1,
        "d": 3,
        "e": 2**30 - 1,
    }


@pytest.mark.parametrize(
    ("found", "status", "message"),
    [
        ({"max_inotify_instances": 128}, "warning", "is 128, of which each"),
        ({"max_inotify_instances": 8191}, "warning", "raise it to 8192 or"),
        ({"max_inotify_instances": 8192}, "ok", "max_user_instances is 8192"),
        ({}, "ok", "sysctl fs.inotify.max_user_instances is"),
    ],
)
def test_the_host_is_told(
    found: dict[str, int], status: str, message: str
) -> None:
    result = host.check_limits(found)
    assert result[0] == status
    assert message in result[1]
