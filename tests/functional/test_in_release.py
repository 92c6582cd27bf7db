# SPDX-License-Identifier: Apache-2.0
"""``tools/in-release`` runs a command, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.functional.capabilities import TOOLS
from tests.functional.images import make_busybox

sys.path.insert(0, str(TOOLS))

from in_release import releases, root

pytestmark = pytest.mark.needs("private-libvirtd", "ext4")

DEADLINE = 60.0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of which little is there."""
    path = tmp_path / "checkout"
    (path / "src/lxc_userns").mkdir(parents=True)
    (path / "tools").mkdir()
    shutil.copy(TOOLS.parent / "pyproject.toml", path)
    for name in (
        "get-ansible-collection",
        "install-system-packages",
        "make-venv",
    ):
        shutil.copy(TOOLS / name, path / "tools")
    (path / "new").write_text("not added\n")
    subprocess.run(["git", "init", "--quiet", path], check=True)
    return path


@pytest.fixture
def cache(checkout: Path, reachable_path: Path) -> Path:
    """A cache that has a root for bookworm, of busybox."""
    release = releases.find_release("bookworm")
    tree = reachable_path / "tree"
    make_busybox(tree)
    for name in ("run", "usr/src/checkout/.venv"):
        (tree / name).mkdir(parents=True)
    path = reachable_path / "cache"
    disk = root.find_directory(path, checkout, release) / root.DISK
    disk.parent.mkdir(parents=True)
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True)
    return path


def start(cache: Path, checkout: Path, *command: str) -> subprocess.Popen[str]:
    argv = [str(TOOLS / "in-release"), "--cache", str(cache), "bookworm"]
    return subprocess.Popen(
        [*argv, *command],
        cwd=checkout / "src",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def traces(cache: Path) -> list[str]:
    """Return traces of runs: directories, mounts, control groups."""
    found = [str(path) for path in cache.glob("run-*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if str(cache) in line]
    listed = subprocess.check_output(["losetup", "--list"], text=True)
    found += [line for line in listed.splitlines() if str(cache) in line]
    for path, directories, _ in os.walk("/sys/fs/cgroup"):
        found += [
            f"{path}/{name}" for name in directories if "in-release." in name
        ]
    return found


def wait_until_gone(cache: Path) -> None:
    give_up = time.monotonic() + DEADLINE
    while traces(cache) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert traces(cache) == []


SCRIPT = """
pwd; cat new; cat /etc/hostname; hostname; id -u; cat
[ $$ -lt 1000 ] && ls /usr/src && touch /mark /var-tmp && exit 3
"""


def test_command(cache: Path, checkout: Path) -> None:
    for _ in range(2):
        run = start(cache, checkout, "sh", "-c", f"! [ -e /mark ] && {SCRIPT}")
        output, errors = run.communicate("typed\n")
        assert errors == ""
        assert output.splitlines() == [
            *("/usr/src/checkout", "not added", "busybox", "in-release", "0"),
            *("typed", "checkout"),
        ]
        assert run.returncode == 3
    assert not Path("/mark").exists()
    wait_until_gone(cache)


@pytest.mark.parametrize(
    ("command", "status"), [(["/etc/passwd"], 126), (["unheard-of"], 127)]
)
def test_no_command(
    cache: Path, checkout: Path, command: list[str], status: int
) -> None:
    run = start(cache, checkout, *command)
    _, errors = run.communicate("")
    assert run.returncode == status
    assert errors.startswith("in-release: ")
    assert len(errors.splitlines()) == 1
    wait_until_gone(cache)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 128 + 15), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_nothing_is_left_of_a_run_that_is_ended(
    cache: Path, checkout: Path, number: signal.Signals, status: int
) -> None:
    run = start(cache, checkout, "sh", "-c", "echo begun; exec sleep 1000")
    assert run.stdout is not None
    assert run.stdout.readline() == "begun\n"
    assert traces(cache) != []
    run.send_signal(number)
    run.communicate()
    assert run.returncode == status
    wait_until_gone(cache)


MAKE = """
import subprocess, sys
from platforms.cache import APART
mount = "mount -t tmpfs tmpfs /mnt && echo begun && exec sleep 1000"
subprocess.run([*APART, "sh", "-c", mount])
"""


def test_making_a_root_ends_with_the_program() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKE], cwd=TOOLS, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.kill()
        # The pipe ends when all that have it do.
        output, _ = process.communicate(timeout=DEADLINE)
        assert output == b""


def test_refusal_is_one_line(cache: Path, checkout: Path) -> None:
    argv = [str(TOOLS / "in-release"), "--cache", str(cache), "potato", "sh"]
    result = subprocess.run(argv, cwd=checkout, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("in-release: release 'potato': unknown;")
    assert len(result.stderr.splitlines()) == 1
    assert traces(cache) == []
