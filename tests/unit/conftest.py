# SPDX-License-Identifier: Apache-2.0
"""Unit tests cannot touch the system: what would, raises."""

import _posixsubprocess
import importlib
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NoReturn

import pytest

from lxc_userns import linux
from lxc_userns.linux import libc
from tests.unit.id_host import IdHost

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
MODULES = [
    importlib.import_module(f"{linux.__name__}.{module.name}")
    for module in pkgutil.iter_modules(linux.__path__)
]
#: What every function of the C library is called by.
CALLER = libc.function("getpid").__qualname__
LOOP_CONTROL = "/dev/loop-control"
#: System calls that only look.
HARMLESS = {"_name_to_handle_at", "_open_by_handle_at", "_openat2"}


class SystemTouchedError(BaseException):
    """A unit test did what only a functional test may.

    Not an Exception, so that no code under test can take it for one.
    """


def audit(event: str, arguments: tuple[object, ...]) -> None:
    # The kernel makes another loop device when it is asked for a free one.
    is_loop = event == "open" and arguments[0] == LOOP_CONTROL
    if event in forbidden or (is_loop and forbidden):
        refuse(event, *arguments)


def system_calls() -> Iterator[tuple[ModuleType, str]]:
    """All functions of the C library that could change something."""
    for module in MODULES:
        for name, value in vars(module).items():
            is_call = getattr(value, "__qualname__", "") == CALLER
            if is_call and name not in HARMLESS:
                yield module, name


SYSTEM_CALLS = list(system_calls())


def refuse(*arguments: object, **_: object) -> NoReturn:
    raise SystemTouchedError(*arguments)


sys.addaudithook(audit)
# Where one thread is in such a hook while it begins to be traced, as coverage
# wants all to be, another that begins as well fails: "Cannot install a trace
# function while another trace function is being installed" (Python 3.11).
threading.settrace(None)


@pytest.fixture(autouse=True)
def untouched_system(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Forbid a test what could change the machine or another process."""
    # The latter is how subprocess starts it, if it can.
    allowed = {"subprocess.Popen", "os.posix_spawn"}
    if request.node.get_closest_marker("allow_subprocess") is None:
        allowed = set()
    # What C code does raises no event.
    monkeypatch.setattr(_posixsubprocess, "fork_exec", refuse)
    for module, name in SYSTEM_CALLS:
        monkeypatch.setattr(module, name, refuse)
    forbidden.update(FORBIDDEN - allowed)
    yield
    forbidden.clear()


@pytest.fixture
def passable_path() -> Iterator[Path]:
    """A directory that users can pass through, which pytest's own are not."""
    with TemporaryDirectory() as path:
        os.chmod(path, 0o711)
        yield Path(path)


@pytest.fixture
def id_host(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> IdHost:
    """A host without users, groups and subordinate IDs, until there are."""
    return IdHost(tmp_path_factory.mktemp("host"), monkeypatch)


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Take off what a test has logged by: its stream is closed then."""
    loggers = [logging.getLogger(name) for name in (None, "lxc_userns")]
    before = [(each, each.level, each.handlers[:]) for each in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        for handler in logger.handlers[:]:
            if handler not in handlers:
                logger.removeHandler(handler)
