# SPDX-License-Identifier: Apache-2.0
"""System calls of this process: what happens before some, and which fail.

By the events of sys.addaudithook(3), which the interpreter raises for its own
functions, by whatever name they were imported, and our module ``libc`` for
others. Processes that are started have none of it.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Their numbers are the same everywhere but on Alpha.
OPEN_TREE, FSOPEN, FSCONFIG, MOUNT_SETATTR = 428, 430, 431, 442

Action = Callable[..., object]
#: An event, the name of a function of the C library, or what syscall(2) takes.
Call = str | int
_actions: list[tuple[Call, Action]] = []


class _Thread(threading.local):
    acts = False


_THREAD = _Thread()


@contextmanager
def acting(call: Call, action: Action) -> Iterator[None]:
    """Call something before each such system call, with its arguments.

    What it raises is raised in place of the call; what it calls itself has no
    such consequence.
    """
    entry = call, action
    _actions.append(entry)
    try:
        yield
    finally:
        _actions.remove(entry)


@contextmanager
def failing(
    call: Call, number: int = errno.ENOSYS, text: str = ""
) -> Iterator[None]:
    """Let a system call fail, always.

    :param number: an errno.
    :param text: what to say, if not what the C library says.
    """

    def fail(*_: object) -> None:
        raise OSError(number, text or os.strerror(number))

    with acting(call, fail):
        yield


@contextmanager
def never(call: Call) -> Iterator[None]:
    """Check that there is no such system call."""
    calls: list[tuple[object, ...]] = []
    with acting(call, lambda *arguments: calls.append(arguments)):
        yield
    assert calls == []


def _tell(event: str, arguments: tuple[object, ...]) -> None:
    if not _actions or _THREAD.acts:
        return
    call: object = event
    if event == "lxc_userns.libc":
        call, arguments = arguments  # type: ignore[assignment]
        if call == "syscall":
            call, *rest = arguments
            arguments = tuple(rest)
    for expected, action in tuple(_actions):
        if call == expected:
            _THREAD.acts = True
            try:
                action(*arguments)
            finally:
                _THREAD.acts = False


sys.addaudithook(_tell)
