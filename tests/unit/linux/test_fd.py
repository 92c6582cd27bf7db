# SPDX-License-Identifier: Apache-2.0
"""Descriptors are closed once, whatever happens."""

import os
from pathlib import Path

import pytest

from lxc_userns.linux.fd import closed_on_error, open_file, owned, reopen


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def fail(fd: int) -> None:
    assert is_open(fd)
    raise ZeroDivisionError


def test_owned() -> None:
    with owned(os.open("/", os.O_PATH)) as fd:
        assert is_open(fd)
    assert not is_open(fd)
    fd = os.open("/", os.O_PATH)
    with pytest.raises(ZeroDivisionError), owned(fd):
        fail(fd)
    assert not is_open(fd)


def test_kept_unless_there_is_an_error() -> None:
    with closed_on_error(os.open("/", os.O_PATH)) as fd:
        pass
    assert is_open(fd)
    with pytest.raises(ZeroDivisionError), closed_on_error(fd):
        fail(fd)
    assert not is_open(fd)


def test_a_file_opened_anew(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("it")
    with (
        open_file(tmp_path, os.O_PATH) as place,
        open_file("file", os.O_PATH, dir_fd=place) as fd,
    ):
        (tmp_path / "file").rename(tmp_path / "moved")
        with reopen(fd, os.O_RDONLY) as again:
            assert os.read(again, 3) == b"it"
            assert not os.get_inheritable(again)
    assert not any(map(is_open, (place, fd, again)))
