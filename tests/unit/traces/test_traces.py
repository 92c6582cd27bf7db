# SPDX-License-Identifier: Apache-2.0
"""Traces of containers: how an end is told, what of a console is shown."""

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from lxc_userns.linux.exit_status import ExitStatus
from lxc_userns.traces import memory, watcher
from lxc_userns.traces.console import Log
from lxc_userns.traces.store import Traces
from lxc_userns.traces.trace import Trace


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "exit code 0"),
        (3 << 8, "exit code 3"),
        (9, "signal SIGKILL"),
        (2, "powered off"),
        (11 | 128, "signal SIGSEGV"),
        (50, "signal 50"),
        (None, "exit status unknown"),
    ],
)
def test_how_it_ended(status: int | None, said: str) -> None:
    assert Trace(True, status).describe() == said
    assert Trace(False, status).describe() is None
    assert Trace(True, status, 2).describe() == (
        f"{said}; 2 of its processes were killed for want of memory"
    )


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    tmp_path.chmod(0o700)
    (tmp_path / "traces").mkdir(mode=0o700)
    (tmp_path / "traces/web1").mkdir(mode=0o700)
    return Traces(str(tmp_path))


def test_nothing_is_known(traces: Traces) -> None:
    assert traces.read("web1") == traces.read("web2") == Trace()
    traces.remove("web2")


def test_what_a_container_prints_is_hostile(
    traces: Traces, tmp_path: Path
) -> None:
    directory = tmp_path / "traces/web1"
    printed = b"lost\n" * 1000 + b"\x1b[2Jred\r\n\n\xff\nlast"
    (directory / "console.log").write_bytes(printed)
    end = {"status": 256, "oom_kills": 1, "time": 0}
    (directory / "end.json").write_text(json.dumps(end))
    found = traces.read("web1")
    assert (found.ended, found.status, found.oom_kills) == (True, 256, 1)
    assert len(found.console) == 10
    assert found.console[-3:] == ("\\x1b[2Jred", "\ufffd", "last")


def test_a_log_that_was_begun_anew(traces: Traces, tmp_path: Path) -> None:
    directory = tmp_path / "traces/web1"
    (directory / "console.log.1").write_text("one\ntw")
    (directory / "console.log").write_text("o\nthree\n")
    assert traces.read("web1").console == ("one", "two", "three")


def test_a_damaged_end_is_none(traces: Traces, tmp_path: Path) -> None:
    (tmp_path / "traces/web1/end.json").write_text("{")
    assert not traces.read("web1").ended


def test_kills(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    control = tmp_path / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    absent = str(tmp_path / "absent")
    assert memory.count_kills([absent]) == memory.count_kills([]) == 0
    assert memory.count_kills([absent, str(control)]) == 1
    assert memory.count_kills([str(control), str(events)]) == 2


class FakePoll:
    """The same ever happens; how long that was waited for is kept."""

    def __init__(self, *happens: tuple[int, int]) -> None:
        self.waited: list[float] = []
        self.happens = happens

    def register(self, *_: object) -> None:
        pass

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.waited.append(milliseconds)
        return [*self.happens]


@pytest.mark.parametrize("has_group", [False, True])
@pytest.mark.parametrize("has_init", [False, True])
def test_it_looks_often_only_while_a_container_starts(
    tmp_path: Path, has_init: bool, has_group: bool
) -> None:
    """Also on a host that has no group in which kills are counted."""
    now = [0.0]
    found = [str(tmp_path / "memory.events")] if has_group else []
    poll = FakePoll()
    watched = watcher.Watched(
        os.getpid(),
        cast(Log, None),
        subscribe=lambda _: None,
        find_files=lambda _: found,
        clock=lambda: now[0],
        make_poll=lambda: cast(select.poll, poll),
    )
    if has_init:
        watched.init = ExitStatus(os.getpid(), None)
    for now[0] in (0, 1, 3600):
        watched.wait()
    is_found = has_init and has_group
    assert poll.waited == [2, 1000 if is_found else 2, 1000]


def test_kills_are_counted_while_it_prints(tmp_path: Path) -> None:
    """With the next that happens, its group may be gone."""
    file = tmp_path / "memory.events"
    poll = FakePoll()
    watched = watcher.Watched(
        os.getpid(),
        cast(Log, None),
        subscribe=lambda _: None,
        find_files=lambda _: [str(file)],
        make_poll=lambda: cast(select.poll, poll),
    )
    watched.init = ExitStatus(os.getpid(), None)
    watched.wait()
    file.write_text("oom_kill 1\n")
    poll.happens = ((12345, select.POLLIN),)
    watched.wait()
    assert watched.kills == 1


class FakeEvents:
    """Ends of children of libvirt's process."""

    def __init__(self, *told: dict[int, int]) -> None:
        self.told = [*told]

    def read(self) -> dict[int, int]:
        return self.told.pop(0) if self.told else {}

    def close(self) -> None:
        self.told = [{}]


#: The first process, and another one of libvirt's.
FIRST, OTHER = os.getpid(), 1


@pytest.mark.allow_subprocess
@pytest.mark.parametrize(
    ("is_found", "told", "status"),
    [
        (True, {FIRST: 3 << 8, OTHER: 0}, 3 << 8),
        (True, {OTHER: 0}, None),
        # It ended before it was found.
        (False, {FIRST: 3 << 8}, 3 << 8),
        (False, {FIRST: 3 << 8, OTHER: 0}, None),
        (False, {}, None),
    ],
)
def test_how_it_ended_before_linux_6_15(
    is_found: bool, told: dict[int, int], status: int | None
) -> None:
    events = FakeEvents(told)
    with subprocess.Popen(["true"]) as controller:
        # It is not waited for, and so still there.
        os.waitid(os.P_PID, controller.pid, os.WEXITED | os.WNOWAIT)
        watched = watcher.Watched(
            controller.pid,
            cast(Log, None),
            subscribe=lambda _: cast(Any, events),
        )
        if is_found:
            watched.init = ExitStatus(FIRST, cast(Any, events), lambda _: None)
        watched.follow()
    assert watched.status == status
    assert events.told == [{}]


@pytest.mark.parametrize("status", [1, 9, None])
def test_what_may_be_a_reboot(status: int | None) -> None:
    """Whatever the kernel tells of it first."""
    assert watcher.may_restart(status)


@pytest.mark.parametrize("status", [0, 2, 15, 3 << 8])
def test_what_is_no_reboot(status: int) -> None:
    assert not watcher.may_restart(status)
