# SPDX-License-Identifier: Apache-2.0
"""Unit tests cannot touch the system: what would, raises."""

import _posixsubprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

import pytest

from lxc_userns.linux import mounts, trees

# Events of sys.addaudithook(3): the interpreter raises them by whatever name
# a function was imported.
FORBIDDEN = {
    "os.chown",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.posix_spawn",
    "os.system",
    "socket.connect",
    "subprocess.Popen",
}
forbidden: set[str] = set()


class SystemTouchedError(BaseException):
    """A unit test did what only a functional test may.

    Not an Exception, so that no code under test can take it for one.
    """


def audit(event: str, arguments: tuple[object, ...]) -> None:
    if event in forbidden:
        refuse(event, *arguments)


def refuse(*arguments: object, **_: object) -> NoReturn:
    raise SystemTouchedError(*arguments)


sys.addaudithook(audit)


@pytest.fixture(autouse=True)
def untouched_system(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Forbid a test what could change the machine or another process."""
    allowed = {"subprocess.Popen"}
    if request.node.get_closest_marker("allow_subprocess") is None:
        allowed = set()
    # What C code does raises no event.
    monkeypatch.setattr(_posixsubprocess, "fork_exec", refuse)
    monkeypatch.setattr(mounts, "bind", refuse)
    monkeypatch.setattr(mounts, "unmount", refuse)
    monkeypatch.setattr(trees, "clone_mount", refuse)
    forbidden.update(FORBIDDEN - allowed)
    yield
    forbidden.clear()
