# SPDX-License-Identifier: Apache-2.0
"""Stopping a container, whatever it has in place of what init reads."""

import fcntl
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns.linux import initctl
from lxc_userns.linux.process import Process
from tests.functional.command_line import CommandLine
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

INIT = ("--init", "/bin/sleep 1000")


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("")


def victim(rootfs: Path) -> Path:
    """Make a file that only the host's root may write to."""
    path = rootfs / "victim"
    path.write_text("unharmed")
    path.chmod(0o600)
    return path


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


PLACES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "file": Path.touch,
    "directory": Path.mkdir,
    "link": lambda path: path.symlink_to("/victim"),
    "link to a pipe": link_to_pipe,
    "loop": lambda path: path.symlink_to("initctl"),
}


@pytest.mark.parametrize("directory", ["run", "dev"])
@pytest.mark.parametrize("what", PLACES)
def test_no_one_reads_initctl(
    cli: CommandLine, busybox_rootfs: Path, what: str, directory: str
) -> None:
    """Neither error nor link: it is stopped, and nothing is written."""
    unharmed = victim(busybox_rootfs)
    place = busybox_rootfs / directory / "initctl"
    place.parent.mkdir(exist_ok=True)
    init = INIT
    if directory == "run":
        PLACES[what](place)
    else:
        # libvirt mounts over /dev: the guest makes it there.
        script = {
            "pipe": "mkfifo /dev/initctl",
            "file": ">/dev/initctl",
            "directory": "mkdir /dev/initctl",
            "link": "ln -s /victim /dev/initctl",
            "link to a pipe": "mkfifo /dev/p; ln -s p /dev/initctl",
            "loop": "ln -s initctl /dev/initctl",
        }[what]
        script += "; >/done; exec sleep 1000"
        init = ("--init", f"/bin/sh -c '{script}'")
    cli.json("container", "run", "web1", "--rootfs", busybox_rootfs, *init)
    if directory == "dev":
        wait_for(lambda: (busybox_rootfs / "done").exists())
    stopped = cli("container", "stop", "web1", "--timeout", "1")
    assert (stopped.code, stopped.err) == (0, "")
    assert cli.json("container", "show", "web1")["state"] == "stopped"
    assert unharmed.read_text() == "unharmed"
    if what == "file" and directory == "run":
        assert place.read_bytes() == b""


def high_pipe() -> tuple[int, int]:
    """Make a pipe whose descriptors are not where the child has its file."""
    low = os.pipe()
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in low)
    for fd in low:
        os.close(fd)
    return read, write


class Impostor:
    """A child that has something open where init has its pipe."""

    def __init__(self, open_it: Callable[[], int]) -> None:
        asking, self._end = high_pipe()
        ready, done = high_pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._end)
                os.dup2(open_it(), 10)
                os.write(done, b"x")
                os.read(asking, 1)
            finally:
                os._exit(0)
        os.close(asking)
        os.close(done)
        assert os.read(ready, 1) == b"x"
        os.close(ready)

    def end(self) -> None:
        os.close(self._end)
        os.waitpid(self.pid, 0)


def ask(open_it: Callable[[], int]) -> bool:
    child = Impostor(open_it)
    try:
        with Process(child.pid) as process:
            return initctl.ask(process)
    finally:
        child.end()


def test_init_is_asked_by_the_pipe_that_it_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "initctl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        assert ask(lambda: os.open(pipe, os.O_RDWR))
        request = os.read(reader, 4096)
    finally:
        os.close(reader)
    assert len(request) == 384
    # initreq.h of sysvinit: INIT_MAGIC, INIT_CMD_RUNLVL, the level.
    assert request[:12] == bytes.fromhex("69190903 01000000 30000000")


def test_what_is_no_pipe_of_init_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "initctl"
    file.touch()
    other = tmp_path / "other"
    os.mkfifo(other)
    for open_it in (
        lambda: os.open(file, os.O_RDWR),
        # Anybody can have that of a file that they may not write to.
        lambda: os.open(file, os.O_PATH),
        lambda: os.open(other, os.O_RDWR),
        lambda: os.open("/dev/null", os.O_RDWR),
    ):
        assert not ask(open_it)
    assert file.read_bytes() == b""


def test_a_full_pipe_keeps_no_one(tmp_path: Path) -> None:
    pipe = tmp_path / "initctl"
    os.mkfifo(pipe)

    def open_full() -> int:
        fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        while True:
            try:
                os.write(fd, bytes(4096))
            except BlockingIOError:
                return fd

    thread = threading.Thread(target=lambda: ask(open_full), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("seconds", ["nan", "-5", "soon", ""])
def test_a_timeout_that_is_none(cli: CommandLine, seconds: str) -> None:
    error = cli("container", "stop", "web1", "--timeout", seconds).error(2)
    assert f"{seconds}: expected 0 or more seconds" in error


@pytest.mark.parametrize("timeout", ["99999999", "inf"])
def test_as_long_as_it_takes(
    cli: CommandLine, busybox_rootfs: Path, timeout: str
) -> None:
    """It has time to stop by itself, however much that is."""
    script = (
        'trap "sleep 1; exit 3" TERM; >/ready; while :; do sleep 0.1; done'
    )
    (busybox_rootfs / "script").write_text(f"PATH=/bin\n{script}\n")
    cli.json(
        "container", "run", "web1", "--rootfs", busybox_rootfs,
        "--init", "/bin/sh /script",
    )  # fmt: skip
    wait_for((busybox_rootfs / "ready").exists)
    assert cli("container", "stop", "web1", "--timeout", timeout).code == 0
    shown = cli.json("container", "show", "web1")
    assert shown["ended"] == "exit code 3"
