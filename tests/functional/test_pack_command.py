# SPDX-License-Identifier: Apache-2.0
"""Root filesystems packed by the command: trees, images, and instances."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.functional import images
from tests.functional.command_line import (
    BASE,
    PROGRAM,
    CommandLine,
    run_on_a_terminal,
)
from tests.functional.conftest import CommandLineFactory

pytestmark = pytest.mark.needs("private-libvirtd", "containers")

SLEEP = "/bin/sleep 1000"


def make_rootfs(parent: Path) -> Path:
    parent.chmod(0o700)
    rootfs = parent / "web"
    images.make_busybox(rootfs)
    return rootfs


def owner(cli: CommandLine, archive: Path, target: Path) -> tuple[int, int]:
    """Unpack it unshifted, and look who has alice's home."""
    cli("rootfs", "unpack", "--unshifted", archive, target)
    status = (target / "home/alice").stat()
    return status.st_uid, status.st_gid


def list_names(archive: Path) -> set[str]:
    listed = subprocess.check_output(["tar", "-tf", archive], text=True)
    return {*listed.splitlines()}


@pytest.mark.parametrize("strategy", ["idmapped", "chown", "overlay"])
def test_an_instance_by_its_name(
    command_line: CommandLineFactory, tmp_path: Path, strategy: str
) -> None:
    cli = command_line(f"rootfs_strategy = {strategy}\n")
    (tmp_path / "private").mkdir()
    rootfs = make_rootfs(tmp_path / "private")
    places = "--rootfs", rootfs, "--init", SLEEP
    shown = cli.json("container", "run", "web", *places)
    subprocess.run(
        ["nsenter", "-t", str(shown["init_pid"]), "-a", "/bin/touch", "/new"],
        check=True,
    )
    archive = tmp_path / "a.tar"
    done = cli("rootfs", "pack", "web", archive)
    assert "web: is running; stop it first, or pack" in done.error()
    live = cli("rootfs", "pack", "--live", "web", tmp_path / "live.tar")
    if strategy == "overlay":
        assert "is running on an overlay" in live.error()
    else:
        assert live.code == 0
        assert "./new" in list_names(tmp_path / "live.tar")
        done = cli("rootfs", "pack", rootfs, archive)
        assert "in use by the running instance web; stop" in done.error()
        done = cli("rootfs", "pack", tmp_path / "private", archive)
        assert "in use by the running instance web" in done.error()
    cli("container", "stop", "web")
    report = cli.json("rootfs", "pack", "web", archive)
    assert {*report} == {"inodes", "skipped", "sockets", "changed"}
    assert "./new" in list_names(archive)
    assert owner(cli, archive, tmp_path / "out") == (1000, 1000)
    assert (tmp_path / "out/new").stat().st_uid == 0
    assert os.listdir(tmp_path / "private") == ["web"]
    assert cli.json("container", "start", "web")["state"] == "running"


def test_an_instance_moved_to_another_range(
    command_line: CommandLineFactory, tmp_path: Path
) -> None:
    cli = command_line("rootfs_strategy = chown\n")
    (tmp_path / "private").mkdir()
    rootfs = make_rootfs(tmp_path / "private")
    cli("container", "run", "web", "--rootfs", rootfs, "--init", SLEEP)
    cli("container", "stop", "web")
    cli("rootfs", "pack", "web", tmp_path / "web.tar.zst")
    cli("container", "destroy", "web")
    other = f"0:{BASE + (1 << 20)}:65536"
    maps = "--uid-map", other, "--gid-map", other
    target = tmp_path / "private/moved"
    done = cli("rootfs", "unpack", tmp_path / "web.tar.zst", target, *maps)
    assert done.code == 0
    assert (target / "home/alice").stat().st_uid == BASE + (1 << 20) + 1000


def test_a_file_of_an_instance_s_name(
    command_line: CommandLineFactory, tmp_path: Path
) -> None:
    cli = command_line("rootfs_strategy = idmapped\n")
    (tmp_path / "private").mkdir()
    rootfs = make_rootfs(tmp_path / "private")
    cli("container", "run", "web", "--rootfs", rootfs, "--init", SLEEP)
    cwd = tmp_path / "private"
    done = cli("rootfs", "pack", "web", tmp_path / "a.tar", cwd=cwd)
    assert "is a file here, and an instance; give ./web" in done.error()


@pytest.mark.parametrize(
    ("what", "archive", "reason"),
    [
        ("nothing", "a.tar", "nothing: No such file or directory"),
        ("web", "a", "does not say how to compress it; give a name in one"),
        ("web", "none/a.tar", "No such file or directory"),
        ("web", "web", "does not say how to compress"),
        ("fifo", "a.tar", "is neither a directory nor a disk image"),
        ("file", "a.tar", "no raw image of ext2"),
    ],
)
def test_bad_input(
    tmp_path: Path, what: str, archive: str, reason: str
) -> None:
    cli = CommandLine.make(tmp_path, tmp_path / "run")
    place = tmp_path / "private"
    place.mkdir()
    make_rootfs(place)
    os.mkfifo(place / "fifo")
    (place / "file").write_text("x")
    done = cli("rootfs", "pack", place / what, place / archive)
    assert reason in done.error()
    assert sorted(os.listdir(place)) == ["fifo", "file", "web"]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    cli = CommandLine.make(tmp_path, tmp_path / "run")
    place = tmp_path / "private"
    place.mkdir()
    (make_rootfs(place) / "data").write_bytes(os.urandom(8 << 20))
    argv = [str(PROGRAM), "--config-file", str(cli.config), "rootfs", "pack"]
    argv += [str(place / "web"), str(tmp_path / "a.tar.xz")]
    _, shown = run_on_a_terminal(argv, "stderr")
    assert b"pack: " in shown
    assert b"B/s" in shown
