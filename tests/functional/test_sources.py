# SPDX-License-Identifier: Apache-2.0
"""Sources of containers: what is promised is given, whoever is in between."""

import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.functional.command_line import BASE, CommandLine
from tests.functional.conftest import CommandLineFactory, FilesystemFactory
from tests.functional.guest import call, enter

pytestmark = pytest.mark.needs("containers")

SLEEP = "/bin/sleep 1000"
REPLACED = "is another file or directory than the one"
USER = 1000
ACCEPT = "--accept-replaced"


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    return command_line("")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of the host that containers share, with one in it."""
    path = tmp_path / "shared"
    (path / "data").mkdir(parents=True)
    (path / "data/file").write_text("harmless\n")
    return path


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Make a tree that no container is to have."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "secret").write_text("the host's\n")
    return path


def run(cli: CommandLine, name: str, rootfs: Path, *arguments: str) -> Any:
    return cli.json(
        "container", "run", name, "--rootfs", rootfs, "--init", SLEEP,
        "--strategy", "overlay", *arguments,
    )  # fmt: skip


def told(shown: Any, *argv: str) -> str:
    """Return what a program prints that runs as a container's root."""
    return call(*enter(shown["init_pid"]), *argv)


def refused(cli: CommandLine, name: str, reason: str) -> str:
    """A start that is refused, with nothing of the container mounted."""
    error = cli("container", "start", name).error()
    assert reason in error
    assert not [each for each in cli.mounts() if f"/{name}/" in each]
    assert cli.json("container", "show", name)["state"] == "stopped"
    return error


@pytest.mark.parametrize("options", ["idmap", "ro", "none", "owned"])
def test_a_container_swaps_a_directory_of_a_shared_volume(
    cli: CommandLine,
    busybox_rootfs: Path,
    shared: Path,
    victim: Path,
    options: str,
) -> None:
    attacker = run(cli, "a", busybox_rootfs, "--volume", f"{shared}:/mnt")
    volume = f"{shared}/data:/mnt:{options}"
    shown = run(cli, "b", busybox_rootfs, "--volume", volume)
    assert told(shown, "cat", "/mnt/file") == "harmless"
    assert cli("container", "stop", "b", "--timeout", "0").code == 0
    told(attacker, "mv", "/mnt/data", "/mnt/moved")
    told(attacker, "ln", "-s", str(victim), "/mnt/data")
    # It looks like root's on the host's disk.
    assert (shared / "data").lstat().st_uid == 0
    refused(cli, "b", f"{shared}/data is a symbolic link, to '{victim}'")
    # Another directory is another one too.
    told(attacker, "rm", "/mnt/data")
    told(attacker, "mkdir", "/mnt/data")
    error = refused(cli, "b", REPLACED)
    assert error.startswith(f"{shared}/data: ")
    told(attacker, "rmdir", "/mnt/data")
    told(attacker, "mv", "/mnt/moved", "/mnt/data")
    started = cli("container", "start", "b")
    assert started.code == 0, started


def test_a_link_is_not_followed_at_first(
    cli: CommandLine, busybox_rootfs: Path, shared: Path, victim: Path
) -> None:
    attacker = run(cli, "a", busybox_rootfs, "--volume", f"{shared}:/mnt")
    told(attacker, "ln", "-s", str(victim), "/mnt/link")
    error = cli(
        "container", "run", "b", "--rootfs", busybox_rootfs, "--init", SLEEP,
        "--strategy", "overlay", "--volume", f"{shared}/link:/mnt:ro",
    ).error()  # fmt: skip
    assert f"{shared}/link is a symbolic link" in error
    names = [each["name"] for each in cli.json("container", "list")]
    assert names == ["a"]


@pytest.fixture
def stopped(cli: CommandLine, busybox_rootfs: Path, tmp_path: Path) -> Path:
    """A container whose tree is shifted on disk, and its tree."""
    above = tmp_path / "above"
    above.mkdir()
    tree = above / "tree"
    busybox_rootfs.rename(tree)
    cli.json("container", "run", "web", "--rootfs", tree, "--init", SLEEP,
             "--strategy", "chown")  # fmt: skip
    assert tree.stat().st_uid == BASE
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    return tree


def test_the_owner_of_a_parent_swaps_a_tree(
    cli: CommandLine, stopped: Path, victim: Path
) -> None:
    os.chown(stopped.parent, USER, USER)
    stopped.rename(stopped.with_name("moved"))
    stopped.symlink_to(victim)
    reason = f"its parent {stopped.parent} belongs to user {USER}"
    refused(cli, "web", reason)
    # Nor by a directory in its place, or when it is named anew.
    stopped.unlink()
    victim.rename(stopped)
    refused(cli, "web", reason)
    assert stopped.stat().st_uid == (stopped / "secret").stat().st_uid == 0
    error = cli("rootfs", "shift", stopped).error()
    assert reason in error
    error = cli(
        "container", "run", "two", "--rootfs", stopped, "--init", SLEEP
    ).error()
    assert reason in error
    assert stopped.stat().st_uid == (stopped / "secret").stat().st_uid == 0


def test_a_root_filesystem_that_is_replaced(
    cli: CommandLine, stopped: Path, victim: Path
) -> None:
    for name in ("bin", "proc", "sys", "dev"):
        (victim / name).mkdir()
    stopped.rename(stopped.with_name("moved"))
    victim.rename(stopped)
    error = refused(cli, "web", REPLACED)
    assert error.endswith(f" {cli.config} container start web {ACCEPT}")
    assert stopped.stat().st_uid == (stopped / "secret").stat().st_uid == 0
    stopped.rename(victim)
    stopped.with_name("moved").rename(stopped)
    assert cli("container", "start", "web").code == 0


def test_what_is_replaced_can_be_accepted(
    cli: CommandLine, stopped: Path
) -> None:
    subprocess.run(["cp", "-a", stopped, stopped.with_name("new")], check=True)
    stopped.rename(stopped.with_name("old"))
    stopped.with_name("new").rename(stopped)
    refused(cli, "web", REPLACED)
    assert cli("container", "start", "web", ACCEPT).code == 0
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    # From now on, it is the one.
    assert cli("container", "start", "web").code == 0
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    stopped.rename(stopped.with_name("new"))
    stopped.with_name("old").rename(stopped)
    refused(cli, "web", REPLACED)


def test_a_directory_of_a_user(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path, victim: Path
) -> None:
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    os.chown(home, USER, USER)
    volume = f"{home}/data:/mnt"
    error = cli(
        "container", "run", "web", "--rootfs", busybox_rootfs, "--init",
        SLEEP, "--strategy", "overlay", "--volume", volume,
    ).error()  # fmt: skip
    assert f"its parent {home} belongs to user {USER}" in error
    assert error.endswith("or give the volume the option owned")
    shown = run(cli, "web", busybox_rootfs, "--volume", f"{volume}:owned")
    assert shown["volumes"] == [f"{volume}:idmap,owned"]
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    (home / "data").rename(home / "moved")
    (home / "data").symlink_to(victim)
    refused(cli, "web", f"{home}/data is a symbolic link")
    (home / "data").unlink()
    victim.rename(home / "data")
    refused(cli, "web", REPLACED)


def test_an_image_that_is_replaced(
    cli: CommandLine,
    busybox_rootfs: Path,
    tmp_path: Path,
    loop_filesystem: FilesystemFactory,
) -> None:
    mounted = loop_filesystem("ext4")
    subprocess.run(["cp", "-a", f"{busybox_rootfs}/.", mounted], check=True)
    subprocess.run(["sync", "-f", mounted], check=True)
    image, other = tmp_path / "disk", tmp_path / "other"
    source = mounted.with_suffix(".image")
    for path in (image, other):
        subprocess.run(["cp", "--sparse=always", source, path], check=True)
    cli.json("container", "run", "web", "--rootfs", image, "--init", SLEEP)
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    image.rename(tmp_path / "moved")
    other.rename(image)
    before = image.stat().st_mtime_ns
    refused(cli, "web", REPLACED)
    assert image.stat().st_mtime_ns == before
    (tmp_path / "moved").rename(image)
    assert cli("container", "start", "web").code == 0


def pretend_reboot(cli: CommandLine, name: str) -> None:
    """Make what is known of a container's sources that of another boot."""
    record = cli.state / f"instances/{name}.json"
    data = json.loads(record.read_text())
    assert data["identities"]
    for identity in data["identities"].values():
        identity["boot"] = str(uuid.uuid4())
        identity["filesystem"] += 1
    record.write_text(json.dumps(data))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_after_a_reboot_it_is_the_same_file(
    cli: CommandLine,
    busybox_rootfs: Path,
    loop_filesystem: FilesystemFactory,
    kind: str,
) -> None:
    data = loop_filesystem(kind) / "data"
    data.mkdir()
    run(cli, "web", busybox_rootfs, "--volume", f"{data}:/mnt")
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    pretend_reboot(cli, "web")
    assert cli("container", "start", "web").code == 0
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    # Its number can be given to another, its generation not.
    pretend_reboot(cli, "web")
    number = data.stat().st_ino
    data.rmdir()
    data.mkdir()
    if kind == "ext4":
        assert data.stat().st_ino == number
    refused(cli, "web", REPLACED)


def test_what_does_not_outlive_a_reboot(
    cli: CommandLine, busybox_rootfs: Path, loop_filesystem: FilesystemFactory
) -> None:
    path = loop_filesystem("tmpfs")
    for name, option in (("one", "idmap"), ("two", "owned")):
        (path / name).mkdir()
        volume = f"{path}/{name}:/mnt:{option}"
        run(cli, name, busybox_rootfs, "--volume", volume)
        assert cli("container", "stop", name, "--timeout", "0").code == 0
        pretend_reboot(cli, name)
        (path / name).rename(path / f"{name}-old")
        (path / name).mkdir()
    assert cli("container", "start", "one").code == 0
    # All that would tell that it is the same is gone.
    refused(cli, "two", REPLACED)


def test_a_socket_is_made_anew_by_its_service(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    make = [
        "python3",
        "-c",
        "import socket, sys;socket.socket(socket.AF_UNIX).bind(sys.argv[1])",
        str(path),
    ]
    subprocess.run(make, check=True)
    run(cli, "web", busybox_rootfs, "--volume", f"{path}:/etc/s:none")
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    path.unlink()
    subprocess.run(make, check=True)
    assert cli("container", "start", "web").code == 0
