# SPDX-License-Identifier: Apache-2.0
"""Kill -9 a process before any chosen one of its changes."""

import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from typing import Any

#: Events of sys.addaudithook(3) before each system call that changes a file.
#: One test holds them against what strace sees.
CHANGES = {
    "fcntl.ioctl",
    "os.chmod",
    "os.chown",
    "os.removexattr",
    "os.setxattr",
}
#: Event of a statement of SQLite, beside those of the interpreter.
STATEMENT = "sqlite3.statement"
Hook = Callable[[str, tuple[object, ...]], None]
IsChange = Callable[[str, tuple[object, ...]], bool]


def changes_file(event: str, _: tuple[object, ...]) -> bool:
    """Tell whether an event is a change to a file that is there."""
    return event in CHANGES


def run_and_kill(
    action: Callable[[], object], at: int, is_change: IsChange = changes_file
) -> bool:
    """Do something in a child that dies right before its change ``at``.

    :param at: number of the change, from 1.
    :param is_change: tells which events of the child itself are changes.
    :returns: whether it died, which it does unless it was done before.
    """
    child = os.fork()
    if child == 0:
        try:
            hook = killer(at, is_change)
            sys.addaudithook(hook)
            tell_statements(hook)
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def tell_statements(hook: Hook) -> None:
    """Tell of each statement of SQLite right before it, in this process."""
    connect = sqlite3.connect

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*args, **kwargs)
        database.set_trace_callback(lambda sql: hook(STATEMENT, (sql,)))
        return database

    sqlite3.connect = connected  # type: ignore[assignment]


def killer(at: int, is_change: IsChange) -> Hook:
    done, pid = 0, os.getpid()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if is_change(event, arguments) and os.getpid() == pid:
            done += 1
            if done == at:
                os.kill(pid, signal.SIGKILL)

    return hook
