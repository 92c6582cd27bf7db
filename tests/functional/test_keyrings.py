# SPDX-License-Identifier: Apache-2.0
"""Keys of one container, of another, and of the host's root.

Whatever has no keyring of its own inherits that of libvirtd
(:manpage:`session-keyring(7)`).
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lxc_userns.linux import keyrings
from tests.functional.capabilities import TOOLS
from tests.functional.command_line import BASE, CommandLine
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

HERE = Path(__file__)
#: A key of whoever runs these tests, in the keyring that they have inherited.
HOSTS = "lxc_userns_test_key"
OTHER_BASE = BASE - 100_000
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def one(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("rootfs_strategy = chown\n")


@pytest.fixture
def two(one: CommandLine) -> CommandLine:
    """The program with ID maps of its own, beside the other."""
    config = one.config.with_name("two.conf")
    text = one.config.read_text()
    config.write_text(text.replace(str(BASE), str(OTHER_BASE)))
    return replace(one, config=config)


@pytest.fixture
def trees(busybox_rootfs: Path, tmp_path: Path) -> Iterator[list[Path]]:
    """Two root filesystems with the program ``keys``."""
    program = busybox_rootfs / "bin/keys"
    source = HERE.with_name("keys.c")
    argv = ["gcc", "-static", "-Wall", "-o", str(program), str(source)]
    subprocess.run(argv, check=True)
    other = tmp_path / "other-rootfs"
    shutil.copytree(busybox_rootfs, other, symlinks=True)
    yield [busybox_rootfs, other]
    for tree in (busybox_rootfs, other):
        (tree / "go").touch()


def run(cli: CommandLine, name: str, rootfs: Path, *steps: str) -> None:
    """Let a container take steps, by a process for each line of them."""
    lines = [f"keys {line} >/said{i} 2>&1 &" for i, line in enumerate(steps)]
    script = ["PATH=/bin", *lines, "wait", "touch /done", "exec sleep 1000"]
    (rootfs / "script").write_text("\n".join(script) + "\n")
    cli.json("container", "run", name, "--rootfs", rootfs,
             "--init", "/bin/sh /script")  # fmt: skip


def said(rootfs: Path, number: int) -> list[str]:
    path = rootfs / f"said{number}"
    return path.read_text().splitlines() if path.exists() else []


def test_containers_share_no_keys(
    one: CommandLine, two: CommandLine, trees: list[Path]
) -> None:
    first, second = trees
    run(one, "one", first,
        "add mine first wait /go find mine",
        "join add mine second wait /go find mine")  # fmt: skip
    wait_for(lambda: len(said(first, 0)) == 1 and len(said(first, 1)) == 2)
    run(two, "two", second, " ".join((
        "find mine change mine", f"find {HOSTS} change {HOSTS}",
        "clear revoke",
    )))  # fmt: skip
    wait_for((second / "done").exists)
    (first / "go").touch()
    wait_for((first / "done").exists)
    # Nothing was found, neither a key of the neighbour nor of the host.
    found = [line.split(": ") for line in said(second, 0)]
    assert [verb for verb, _ in found] == [
        *("find", "change", "find", "change", "clear", "revoke")
    ]
    assert {result for _, result in found[:4]} <= {
        "Required key not available", "Permission denied"
    }  # fmt: skip
    # What it has done to its own keyring has hurt no one else's.
    inherited = said(first, 0)
    assert inherited in (
        ["add: done", "wait: done", "first=find: done"],
        # Where what is inherited is closed to all.
        ["add: Permission denied", "wait: done", "find: Permission denied"],
    )
    assert said(first, 1) == [
        *("join: done", "add: done", "wait: done", "second=find: done")
    ]
    if os.environ.get(HOSTS):
        key = subprocess.check_output(
            ["keyctl", "pipe", os.environ[HOSTS]], text=True
        )
        assert key == "of the host"


@pytest.mark.needs("private-libvirtd")
def test_whoever_starts_libvirtd_has_keys() -> None:
    """The same, beside a libvirtd that has a keyring to inherit."""
    script = (
        f"{HOSTS}=$(keyctl add user {HOSTS} 'of the host' @s)\n"
        f'exec env {HOSTS}="${HOSTS}" "$@"\n'
    )
    done = subprocess.run(
        ["keyctl", "session", "-", "sh", "-ec", script, "sh",
         TOOLS / "private-libvirtd", sys.executable, "-m", "pytest", "-q",
         f"{HERE}::{test_containers_share_no_keys.__name__}"],
        cwd=TOOLS.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def name() -> str:
    return f"lxc-userns-test-{uuid.uuid4()}"


@contextmanager
def keyring(script: str, *prefix: str) -> Iterator[None]:
    """Make a session keyring, by a script, for a while."""
    with subprocess.Popen(
        [*prefix, "keyctl", "session", "-", "sh", "-ec",
         f"{script}\necho\nexec sleep 1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as made:  # fmt: skip
        try:
            assert made.stdout is not None
            assert made.stdout.readline() == b"\n"
            yield
        finally:
            made.kill()


#: As systemd does for a service, and for everybody besides.
ADD = 'key=$(printf %s "{value}" | keyctl padd user {name} @s)'
AS_SYSTEMD = f"{ADD}; keyctl setperm $key 0x0b0b0000"
FOR_ALL = f"{ADD}; keyctl setperm $key 0x3f3f3f3f"


def test_keys_of_root(name: str) -> None:
    assert [*keyrings.read_keys_of_root(name)] == []
    with (
        keyring(AS_SYSTEMD.format(name=name, value="one")),
        keyring(AS_SYSTEMD.format(name=name, value="two")),
        keyring(AS_SYSTEMD.format(name=f"{name}-more", value="no")),
        keyring(FOR_ALL.format(name=name, value="theirs"), *NOBODY),
        # Without a right to read them it is as if they were not there.
        keyring(ADD.format(name=name, value="closed")),
    ):
        assert sorted(keyrings.read_keys_of_root(name)) == [b"one", b"two"]


def test_a_name_with_a_line_of_its_own(name: str) -> None:
    """A key can be called as if it were several."""
    line = f"{name}-x: 1\n00000001 I--Q--- 1 perm 3f3f3f3f 0 0 user {name}"
    with keyring(FOR_ALL.format(name=f"'{line}'", value="theirs"), *NOBODY):
        assert [*keyrings.read_keys_of_root(name)] == []


def test_a_name_that_points_to_another_key_of_root(name: str) -> None:
    """A line that is made up has the number of a key that there is."""
    other = f"{name}-other"
    with keyring(AS_SYSTEMD.format(name=other, value="secret")):
        number = next(
            int(line.split()[0], 16)
            for line in keyrings._KEYS.read_text().splitlines()
            if f" {other}: " in line
        )
        line = f"x: 1\n{number:08x} I--Q--- 1 perm 3f3f3f3f 0 0 user {name}"
        ours = FOR_ALL.format(name=f"'{line}'", value="theirs")
        with keyring(ours, *NOBODY):
            assert (
                f"\n{number:08x} I--Q--- 1 perm" in keyrings._KEYS.read_text()
            )
            assert [*keyrings.read_keys_of_root(name)] == []


@pytest.mark.parametrize("size", [200, 256, 3000])
def test_a_name_that_is_long(name: str, size: int) -> None:
    """It begins as if it were ours, and has no end that we wait for."""
    long = f"'{name}: {'x' * size}'"
    with (
        keyring(FOR_ALL.format(name=long, value="theirs"), *NOBODY),
        keyring(FOR_ALL.format(name=long, value="of another name")),
        keyring(FOR_ALL.format(name=name, value="v" * 3000)),
        keyring(AS_SYSTEMD.format(name=name, value="one")),
    ):
        assert [*keyrings.read_keys_of_root(name)] == [b"one"]
