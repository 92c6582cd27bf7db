# SPDX-License-Identifier: Apache-2.0
"""Kill -9 a process before any chosen one of its changes to a file."""

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


def run_and_kill(action: Callable[[], object], at: int) -> bool:
    """Do something in a child that dies right before its change ``at``.

    :param at: number of the change, from 1.
    :returns: whether it died, which it does unless it was done before.
    """
    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(killer(at))
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


def killer(at: int) -> Callable[[str, tuple[object, ...]], None]:
    done = 0

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal done
        if event in CHANGES:
            done += 1
            if done == at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook
