# SPDX-License-Identifier: Apache-2.0
"""Directories of our own: errors of the kernel, as those of their options."""

import errno
import os

import pytest

from lxc_userns import own_paths
from lxc_userns.cli.exit_codes import exit_code
from lxc_userns.exceptions import ConfigError

DENIED = PermissionError(errno.EACCES, "Permission denied", "locks")


@pytest.mark.parametrize(
    ("user", "error", "reason", "code"),
    [
        (1000, DENIED, "Permission denied; run this as root", 4),
        (0, DENIED, "Permission denied", 1),
        (1000, PermissionError("is bad; chown it"), "is bad; chown it", 4),
        (1000, OSError(errno.ENOSPC, "No space left"), "No space left", 1),
    ],
)
def test_what_a_normal_user_is_told(
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    error: OSError,
    reason: str,
    code: int,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with (
        pytest.raises(ConfigError) as caught,
        own_paths.translated("state_path", "/x"),
    ):
        raise error
    assert str(caught.value) == f"[lxc_userns] state_path = /x: {reason}"
    assert exit_code(caught.value) == code
