# SPDX-License-Identifier: Apache-2.0
"""Containers with more of something than anybody looks at.

Verification takes no more time or memory than its bounds allow; whoever
exceeds one is told which, and the container is destroyed.
"""

import glob
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lxc_userns.exceptions import IsolationError
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.linux.process import Process
from lxc_userns.verification import observed
from tests.functional.command_line import CommandLine
from tests.functional.test_unverified import AT_FIRST, crash
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

#: What a container does, and what is said then. Directories are many as well
#: as what is in them.
EXCESSES = {
    "names": (
        "cd /dev; seq 10100 | xargs touch",
        "has more than 10000 names in /dev",
    ),
    "directories": (
        "cd /dev; for d in $(seq 101); do mkdir $d; "
        "seq 100 | sed s/^/$d./ | (cd $d; xargs touch); done",
        "has more than 10000 names in /dev",
    ),
    "mounts": (
        "mkdir /m; mount -t tmpfs m /m; mkdir /m/a; "
        "for i in $(seq 14); do mount -o rbind /m /m/a; done",
        "has more than 10000 mounts",
    ),
    "groups": (
        "cd /sys/fs/cgroup/systemd 2>/dev/null || cd /sys/fs/cgroup; "
        "seq 10100 | sed s/^/excess./ | xargs mkdir",
        "has more than 10000 names in its control group /sys/fs/cgroup",
    ),
}


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("rootfs_strategy = chown\n")


@contextmanager
def excessive(cli: CommandLine, rootfs: Path, script: str) -> Iterator[None]:
    """Run a container that does something before it is verified."""
    (rootfs / "excess").write_text(
        f"PATH=/bin:/sbin\n({script}) >/said 2>&1\n>/done\nexec sleep 1000\n"
    )
    # By the program, as a user would; killed before it verifies anything.
    crash(cli, AT_FIRST, "container", "run", "web1", "--rootfs", rootfs,
          "--init", "/bin/sh /excess")  # fmt: skip
    wait_for(lambda: (rootfs / "done").exists())
    assert (rootfs / "said").read_text() == ""
    try:
        yield
    finally:
        cli("container", "destroy", "web1")
        # pathlib's raises for a group that goes meanwhile.
        for group in glob.glob("/sys/fs/cgroup/**/excess.*", recursive=True):
            with suppress(OSError):
                os.rmdir(group)


@pytest.mark.parametrize("verb", ["start", "verify"])
@pytest.mark.parametrize("what", EXCESSES)
def test_more_than_is_looked_at(
    cli: CommandLine, busybox_rootfs: Path, what: str, verb: str
) -> None:
    script, said = EXCESSES[what]
    with excessive(cli, busybox_rootfs, script):
        # It keeps no one from seeing what there is.
        (listed,) = cli.json("container", "list")
        assert listed["state"] == "unverified"
        error = cli("container", verb, "web1").error()
        assert error.startswith(f"web1: {said}")
        assert error.endswith("; it was destroyed")


def test_threads(
    cli: CommandLine, busybox_rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observed, "_MOST_THREADS", 20)
    many = "for i in $(seq 20); do sleep 1000 & done"
    manager = cli.manager()
    with (
        excessive(cli, busybox_rootfs, many),
        pytest.raises(IsolationError, match="has more than 20 threads"),
    ):
        manager.verify("web1", started=False)


@contextmanager
def grouped(number: int) -> Iterator[Process]:
    """A process in this many groups, the highest of numbers."""
    script = (
        f"import os; os.setgroups([0xfffffffe - n for n in range({number})]);"
        "print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as done:
        assert done.stdout is not None
        assert done.stdout.read(1) == b"\n"
        with Process(done.pid) as process:
            yield process
        done.kill()


def test_groups() -> None:
    with Process("self") as this:
        own = [*this.capabilities]
    with grouped(5000) as process:
        assert [*process.capabilities] == own[:1]
    # Also where the line of one of the capabilities is cut off.
    for number in (*range(5830, 5960, 5), 65536):
        with grouped(number) as process:
            with suppress(BoundExceededError):
                assert [*process.capabilities] == own[:1]
            # What there is of it else is found all the same.
            assert not process.is_first
            assert process.parent > 0
    with (
        grouped(65536) as process,
        pytest.raises(BoundExceededError, match="is in so many groups"),
    ):
        next(process.capabilities)


def test_groups_of_others(cli: CommandLine, busybox_rootfs: Path) -> None:
    """A process in many groups outside is of no concern."""
    with grouped(65536):
        shown = cli.json(
            *("container", "run", "web1", "--rootfs", busybox_rootfs),
            *("--init", "/bin/sleep 1000"),
        )
        assert shown["state"] == "running"


def test_stop_of_one_in_many_groups(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """One that cannot be verified can be seen and stopped."""
    script = Path(busybox_rootfs) / "bin/surrender"
    source = Path(__file__).with_name("surrender.c")
    subprocess.run(
        ["gcc", "-static", "-Wall", "-o", str(script), str(source)], check=True
    )
    with excessive(cli, busybox_rootfs, "surrender groups & sleep 0.5"):
        assert cli("container", "stop", "web1", "--timeout", "0").code == 0
        assert cli.json("container", "show", "web1")["state"] == "stopped"
