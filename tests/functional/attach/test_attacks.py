# SPDX-License-Identifier: Apache-2.0
"""Containers that attack commands in them, or end meanwhile."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import libvirt
import pytest

from lxc_userns.attach import session
from lxc_userns.exceptions import NotRunningError
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.linux.process import Process
from tests.functional.attach.box import (
    LONGEST,
    NAME,
    Box,
    line,
    prepare,
    running,
    started,
)
from tests.functional.command_line import CommandLine

pytestmark = pytest.mark.needs("containers")


def make_long(path: Path) -> None:
    path.write_text("x:x:1:1::/:/bin/sh\n" * 1_000_000)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
    "a million lines": make_long,
    "a long line": lambda path: path.write_text("x" * 100_000),
    "magic link": lambda path: path.symlink_to("/proc/self/fd/0"),
    "loop": lambda path: path.symlink_to("passwd"),
    "link to the host": lambda path: path.symlink_to("../../../../etc/hosts"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "null bytes": lambda path: path.write_text("alice\0::0:0::/:/bin/sh\n"),
    "malformed": lambda path: path.write_text("alice:x:99999999999:0:::\n"),
    "nothing": lambda path: None,
}


def test_hostile_passwd(private: Box) -> None:
    """One line for who is looked up there; root by number needs none."""
    path = private.root / "etc/passwd"
    for what, make in HOSTILE.items():
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        make(path)
        found = private.exec("--user", "alice", "id").error(125)
        assert found.startswith("box: user 'alice': "), what
        assert private.out("echo", "in") == "in\n", what


def compile_watcher(path: Path) -> None:
    source = Path(__file__).with_name("watch.c")
    argv = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*argv, "-o", str(path), str(source)], check=True)


@pytest.mark.parametrize("kind", ["private", "host"])
def test_attack_on_the_joining_process(
    kind: str,
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> None:
    """Root of the container waits for it to come in (CVE-2019-5736).

    It takes long to find its program, and so to become it.
    """
    root = prepare(reachable_path)
    compile_watcher(root / "bin/watch")
    with (
        running(kind, cli, libvirt_connection, root) as box,
        started(box, "watch", "/bin/busybox", "/bin/sleep") as watch,
    ):
        assert line(watch) == "ready\n"
        began = time.monotonic()
        assert box.exec("sh", "-c", ":").code == 0
        # As many as take a good while, also where the machine is emulated.
        number = int(30_000 / max(1, 2 * (time.monotonic() - began)))
        slow = "PATH=" + "/x:" * number + "/bin"
        for _ in range(5):
            assert box.exec("--env", slow, "sh", "-c", ":").code == 0
        watch.terminate()
        assert watch.stdout is not None
        found = {*watch.stdout.read().splitlines()}
        with Process(box.init) as init:
            is_confined = init.security_label.endswith("(enforce)")
    if kind == "private" or is_confined:
        assert found == {"denied"}
    else:
        # It has the host's user IDs, and may trace; it cannot write.
        assert found == {"opened exe", "written: Read-only file system"}


def test_attack_by_what_is_executed(box: Box) -> None:
    """The program asks for what executes it, which is the host's."""
    program = box.root / "bin/trap"
    program.write_text("#!/proc/self/exe\nopen('/pwned', 'w').write('x')\n")
    program.chmod(0o755)
    program.with_name("way").symlink_to("/proc/self/exe")
    for name in ("trap", "/bin/trap", "way"):
        assert "Permission denied" in box.exec(name, "-h").error(126)
    (box.root / "bin/sh").unlink()
    program.rename(box.root / "bin/sh")
    assert "Permission denied" in box.exec().error(126)
    assert not (box.root / "pwned").exists()


def test_attack_by_the_working_directory(box: Box) -> None:
    """No descriptor of the host is left to lead out (CVE-2024-21626)."""
    (box.root / "way").symlink_to("/proc/self/fd")
    for number in range(24):
        for directory in ("/proc/self/fd", "/way", "/proc/1/fd"):
            done = box.exec("--workdir", f"{directory}/{number}", "pwd")
            if directory == "/proc/1/fd" and done.code == 0:
                continue  # What its own first process has open.
            assert "--workdir" in done.error(125)
    own = box.out("--workdir", "/proc/self/cwd", "stat", "-c%d:%i", ".")
    assert own == box.out("stat", "-c%d:%i", "/")


def test_a_container_ends_meanwhile(private: Box) -> None:
    with started(private, "sh", "-c", "echo ready; sleep 1000") as process:
        assert line(process) == "ready\n"
        assert private.cli("container", "stop", NAME, "-h").code == 0
        private.cli("container", "stop", NAME, "--timeout", "0")
        assert process.wait(LONGEST) == 137
    assert private.exec("id").error(125) == "box: is not running"


@dataclass(frozen=True)
class Ending:
    """Guests of which one ends as soon as it was found."""

    pid: int

    def find(self, name: str) -> Guest:
        return Guest(name, "", "running", 1)

    @contextmanager
    def init_process(self, _name: str) -> Iterator[Process]:
        with Process(self.pid) as process:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            yield process


def test_a_container_ends_while_it_is_joined() -> None:
    """Its first process is gone before it can be held."""
    process = subprocess.Popen(["sleep", "1000"])
    guests = cast(Guests, Ending(process.pid))
    with (
        pytest.raises(NotRunningError, match="box: is not running"),
        session.start(guests, NAME, session.CommandSpec()),
    ):
        pass
    process.returncode = -signal.SIGKILL


def test_limits_hold(
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> None:
    root = prepare(reachable_path)
    limit = ("--pids-limit", "10")
    # The shell ends when it cannot fork: its place stays taken.
    script = "trap 'exec sleep 1000' EXIT; "
    script += "for n in $(seq 20); do sleep 1000 & done"
    with (
        running("private", cli, libvirt_connection, root, *limit) as box,
        started(box, "sh", "-c", script) as process,
    ):
        assert process.stderr is not None
        assert "fork" in process.stderr.readline()
        found = box.exec("id").error(125)
        assert "start a process in it: Resource temporarily un" in found
