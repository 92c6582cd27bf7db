# SPDX-License-Identifier: Apache-2.0
"""Lines of a log that grows, is replaced, and may hold anything."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns.linux import directory
from lxc_userns.text import escape
from lxc_userns.traces.tail import Tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log without a line."""
    path = tmp_path / "log"
    path.touch()
    return path


def opening(path: Path) -> Callable[[], int | None]:
    def open_log() -> int | None:
        return os.open(path, os.O_RDONLY) if path.exists() else None

    return open_log


def test_lines_come_once_and_whole(log: Path) -> None:
    tail = Tail(opening(log))
    assert [*tail.read()] == []
    log.write_bytes(b"one\r\n\ntw")
    assert [*tail.read()] == [b"one", b""]
    with log.open("ab") as stream:
        stream.write(b"o\nlogin: ")
    assert [*tail.read()] == [b"two"]
    assert [*tail.take_rest()] == [b"login: "]
    assert [*tail.take_rest()] == []
    tail.close()


def test_a_log_that_is_replaced(log: Path) -> None:
    tail = Tail(opening(log))
    log.write_bytes(b"one\nrest")
    log.rename(log.with_name("older"))
    log.write_bytes(b"two\n")
    assert [*tail.read()] == [b"one", b"rest", b"two"]
    log.unlink()
    assert [*tail.read()] == []  # Until there is another.
    log.write_bytes(b"three\n")
    assert [*tail.read()] == [b"three"]
    tail.close()


def test_a_log_that_is_emptied(log: Path) -> None:
    log.write_bytes(b"one\n")
    tail = Tail(opening(log))
    assert [*tail.read()] == [b"one"]
    log.write_bytes(b"2\n")
    assert [*tail.read()] == [b"2"]
    tail.close()


def test_a_log_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "later"
    tail = Tail(opening(path))
    assert [*tail.read()] == []
    path.write_bytes(b"here\n")
    assert [*tail.read()] == [b"here"]
    tail.close()


def test_the_end_of_a_long_log(log: Path) -> None:
    log.write_bytes(b"x" * 100 + b"\nlast\n")
    tail = Tail(opening(log), 8)
    assert [*tail.read()] == [b"xx", b"last"]
    tail.close()


def test_a_line_without_an_end_is_bounded(log: Path) -> None:
    log.write_bytes(b"x" * 1_000_000)
    tail = Tail(opening(log))
    lines = [*tail.read(), *tail.take_rest()]
    assert max(map(len, lines)) == 4096
    assert sum(map(len, lines)) == 1_000_000
    tail.close()


def test_what_a_terminal_would_act_upon_is_escaped() -> None:
    text = "a\x1b]0;evil\x07\x9b2J\u202e\x00\r é"
    assert escape(text) == (r"a\x1b]0;evil\x07\x9b2J\u202e\x00\r é")


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_only_a_regular_file_is_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    with (
        directory.opened(tmp_path) as fd,
        pytest.raises(OSError, match=r"not a regular|symbolic links"),
    ):
        directory.open_regular(fd, "log")
