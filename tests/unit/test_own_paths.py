# SPDX-License-Identifier: Apache-2.0
"""Directories of our own: errors of the kernel, as those of their options."""

import errno
import os
from pathlib import Path

import pytest

from lxc_userns import own_paths
from lxc_userns.cli.exit_codes import exit_code
from lxc_userns.exceptions import ConfigError

NO_SPACE = OSError(errno.ENOSPC, "No space left")
READ_ONLY = OSError(errno.EROFS, "Read-only")
DENIED = PermissionError(errno.EACCES, "Permission denied", "locks")


@pytest.mark.parametrize(
    ("user", "error", "reason", "code"),
    [
        (1000, DENIED, "Permission denied; run this as root", 4),
        (0, DENIED, "Permission denied", 1),
        (1000, PermissionError("is bad; chown it"), "is bad; chown it", 4),
        (1000, NO_SPACE, "No space left; make room there, for files as", 1),
        (0, READ_ONLY, "Read-only; mount it for writing, or take another", 1),
        (0, OSError(errno.EDQUOT, "Full"), "Full; raise the quota that", 1),
        (0, OSError(errno.EIO, "I/O error"), "I/O error", 1),
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
    text = str(caught.value)
    assert text.startswith(f"[lxc_userns] state_path = /x: {reason}")
    assert (text.count(";") == 1) == (";" in reason)
    assert exit_code(caught.value) == code


@pytest.mark.parametrize("state", ["file", "file/a/b", "directory"])
def test_file_in_place_of_a_directory(tmp_path: Path, state: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    path = str(tmp_path / state)
    what = "directory/locks" if state == "directory" else "file"
    with (
        pytest.raises(ConfigError) as caught,
        own_paths.translated("state_path", path),
    ):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", "locks")
    assert caught.value.reason == (
        f"{tmp_path}/{what} is not a directory; move it away, or take another "
        "path"
    )
