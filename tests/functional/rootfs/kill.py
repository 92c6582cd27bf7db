# SPDX-License-Identifier: Apache-2.0
"""Kill -9 a process before any chosen one of its changes."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

#: Events of sys.addaudithook(3) before each system call that changes a file.
#: One test holds them against what strace sees.
CHANGES = {
    "fcntl.ioctl",
    "os.chmod",
    "os.chown",
    "os.removexattr",
    "os.setxattr",
}
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
            sys.addaudithook(killer(at, is_change))
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


def killer(
    at: int, is_change: IsChange
) -> Callable[[str, tuple[object, ...]], None]:
    done, pid = 0, os.getpid()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if is_change(event, arguments) and os.getpid() == pid:
            done += 1
            if done == at:
                os.kill(pid, signal.SIGKILL)

    return hook
