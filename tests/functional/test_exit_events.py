# SPDX-License-Identifier: Apache-2.0
"""Ends of a process's children, as the kernel tells at once."""

import os
import subprocess
import time

import pytest

from lxc_userns.linux.exit_events import ExitEvents, subscribe

IS_FIRST = os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC


def end(*commands: str) -> dict[int, int]:
    """Run shells one after the other; how each ended."""
    found = {}
    for command in commands:
        with subprocess.Popen(["sh", "-c", command]) as shell:
            _, found[shell.pid] = os.waitpid(shell.pid, 0)
            shell.returncode = 0
    return found


def test_children_of_a_process() -> None:
    if not IS_FIRST:
        # The kernel would tell numbers of another PID namespace.
        assert subscribe(os.getpid()) is None
        with pytest.raises(PermissionError):
            ExitEvents(os.getpid())
        return
    other = ExitEvents(1)
    events = ExitEvents(os.getpid())
    ends = end("exit 0", "exit 7", "kill -9 $$", "(exit 5); exit 6")
    assert set(ends.values()) == {0, 7 << 8, 9, 6 << 8}
    found = events.read()
    deadline = time.monotonic() + 60
    while len(found) < len(ends) and time.monotonic() < deadline:
        found |= events.read()
    assert found == ends
    # Threads end as well, and are no processes.
    assert events.read() == {}
    assert not set(ends) & set(other.read())
    other.close()
    events.close()
