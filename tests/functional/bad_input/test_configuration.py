# SPDX-License-Identifier: Apache-2.0
"""Configurations that cannot be used, and paths in them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.functional.command_line import CommandLine, call
from tests.functional.containers import SLEEP

SYNTAX = "expected guest:host:count, three decimal integers"


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "uid_maps =\ngid_maps =\n",
            "[libvirt] uid_maps, gid_maps: are empty, so that the "
            "container's root would be the host's; set both",
        ),
        ("gid_maps =\n", "[libvirt] gid_maps: is empty, but uid_maps is set"),
        (
            "uid_maps = 0:0:65536\ngid_maps = 0:0:65536\n",
            "0:0:65536 maps to host ID 0",
        ),
        ("uid_maps = 0:1900000000\n", SYNTAX),
        (
            "[lxc_userns]\nrootfs_strategy = fast\n",
            "[lxc_userns] rootfs_strategy",
        ),
        (
            "uid_maps =\ngid_maps =\n[lxc_userns]\nsubid_owner = lxc\n",
            "[lxc_userns] subid_owner = lxc: lxc has no subordinate user IDs "
            "in /etc/subuid; add the line lxc:",
        ),
        (
            "[lxc_userns]\nshift_workers = many\n",
            "[lxc_userns] shift_workers",
        ),
    ],
)
def test_configurations_that_cannot_be_used(
    container_cli: CommandLine, rootfs: Path, options: str, message: str
) -> None:
    text = container_cli.config.read_text()
    group = "" if options.startswith("[") else "[libvirt]\n"
    container_cli.config.write_text(f"{text}{group}{options}")
    result = container_cli(
        "container", "run", "bad", "--rootfs", rootfs, "--init", SLEEP
    )
    assert message in result.error()
    container_cli.config.write_text(text)


@pytest.mark.needs("containers")
def test_directories_that_cannot_be_trusted(
    container_cli: CommandLine, rootfs: Path, tmp_path: Path
) -> None:
    run = ("container", "run", "bad", "--rootfs", rootfs, "--init", SLEEP)
    state = container_cli.state
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    assert f"{state} has mode 0755" in container_cli(*run).error()
    state.chmod(0o700)
    os.chown(state, 1000, 0)
    assert f"{state} belongs to user 1000" in container_cli(*run).error()
    state.rmdir()
    state.symlink_to(tmp_path)
    assert "[lxc_userns] state_path" in container_cli(*run).error()
    state.unlink()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("ro,mode=700", "Read-only file system; mount it for writing"),
        ("nr_inodes=1,mode=700", "No space left on device; make room there"),
        (None, " is not a directory; move it away, or take another path"),
    ],
)
def test_state_path_that_cannot_be_written_to(
    container_cli: CommandLine, rootfs: Path, options: str | None, reason: str
) -> None:
    state = container_cli.state
    if options is None:
        state.touch()
    else:
        state.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", options, "none", str(state)]
        subprocess.run(argv, check=True)
    try:
        run = ("container", "run", "bad", "--rootfs", rootfs, "--init", SLEEP)
        error = container_cli(*run).error()
        assert error.startswith(f"[lxc_userns] state_path = {state}: ")
        assert reason in error
    finally:
        if options is None:
            state.unlink()
        else:
            subprocess.run(["umount", state], check=True)


@pytest.mark.needs("containers")
def test_a_run_path_that_containers_cannot_reach(
    container_cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    text = container_cli.config.read_text()
    container_cli.config.write_text(
        text + f"[lxc_userns]\nrun_path = {closed}/run\n"
    )
    error = container_cli(
        "container", "run", "bad", "--rootfs", busybox_rootfs, "--init", SLEEP
    ).error()
    assert "[lxc_userns] run_path" in error
    assert "users of containers cannot pass through" in error
    container_cli.config.write_text(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "absent.conf"),
        (b"garbage\n", "garbage"),
        (b"\xff\xfe", "codec"),
    ],
)
def test_configuration_files_that_cannot_be_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    message: str,
) -> None:
    # A long path would be shortened in the message.
    monkeypatch.chdir(tmp_path)
    file = Path("absent.conf")
    if content is not None:
        file.write_bytes(content)
    for command in ("config check", "host check", "container list"):
        error = call("--config-file", file, *command.split()).error()
        assert error.startswith(f"--config-file = {file}: ")
        assert message in error


def test_a_configuration_file_of_another_user(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.touch()
    check = ("--config-file", file, "config", "check", "-f", "json")
    warned = f"it belongs to user 4321; chown root {file}"
    assert warned not in call(*check).out
    os.chown(file, 4321, 0)
    assert warned in call(*check).out
