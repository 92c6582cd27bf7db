# SPDX-License-Identifier: Apache-2.0
"""Host name and machine ID of each container, also from a shared image."""

import os
import socket
from pathlib import Path

import pytest

from tests.functional.command_line import BASE, CommandLine
from tests.functional.containers import cli as cli
from tests.functional.containers import pid_of, run
from tests.functional.test_run_options import make_archive

pytestmark = pytest.mark.needs("containers")

OVERLAY = ("--strategy", "overlay")
MACHINE_ID = f"{'1' * 32}\n"


@pytest.fixture
def image(busybox_rootfs: Path) -> Path:
    """An image with the names of where it was made."""
    etc = busybox_rootfs / "etc"
    (etc / "machine-id").write_text(MACHINE_ID)
    (etc / "machine-id").chmod(0o444)
    (etc / "hostname").write_text("builder\n")
    bus = busybox_rootfs / "var/lib/dbus"
    bus.mkdir(parents=True)
    (bus / "machine-id").write_text(MACHINE_ID)
    return busybox_rootfs


def root_of(cli: CommandLine, name: str) -> Path:
    return Path(f"/proc/{pid_of(cli, name)}/root")


def hostname(cli: CommandLine, name: str) -> str:
    done = cli("container", "exec", name, "--", "hostname")
    assert done.code == 0
    return done.out.strip()


def check_own(cli: CommandLine, name: str, expected: str) -> None:
    root = root_of(cli, name)
    assert (root / "etc/hostname").read_text() == f"{expected}\n"
    assert (root / "etc/machine-id").read_text() == ""
    assert not (root / "var/lib/dbus/machine-id").exists()
    status = (root / "etc/machine-id").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (BASE, 0o444)
    assert (root / "etc/hostname").stat().st_uid == BASE
    assert hostname(cli, name) == expected
    # libvirt's, of which systemd makes an ID.
    uuid = cli.json("container", "show", name)["uuid"]
    environment = (root / "proc/1/environ").read_bytes().split(b"\0")
    assert f"container_uuid={uuid}".encode() in environment


def test_two_of_one_image(cli: CommandLine, image: Path) -> None:
    host = socket.gethostname()
    run(cli, "one", image, *OVERLAY)
    run(cli, "two.2_x", image, *OVERLAY, "--hostname", "two.example")
    check_own(cli, "one", "one")
    check_own(cli, "two.2_x", "two.example")
    assert (
        cli.json("container", "show", "two.2_x")["hostname"] == "two.example"
    )
    assert (image / "etc/machine-id").read_text() == MACHINE_ID
    assert (image / "etc/hostname").read_text() == "builder\n"
    assert socket.gethostname() == host
    # What is chosen inside stays; a new start has what was asked for.
    cli("container", "exec", "one", "--", "/bin/sh", "-c",
        "echo mine >/etc/hostname; echo 2 >/etc/machine-id; hostname mine",
        )  # fmt: skip
    assert cli("container", "verify", "one").code == 0
    assert hostname(cli, "one") == "mine"
    cli.json("container", "restart", "one", "two.2_x", "--timeout", "0")
    assert (root_of(cli, "one") / "etc/hostname").read_text() == "mine\n"
    assert (root_of(cli, "one") / "etc/machine-id").read_text() == "2\n"
    assert hostname(cli, "two.2_x") == "two.example"


@pytest.mark.parametrize("strategy", ["idmapped", "chown", "overlay"])
def test_what_is_unpacked(
    cli: CommandLine, image: Path, strategy: str
) -> None:
    archive = make_archive(image)
    run(cli, "tape", archive, "--strategy", strategy)
    check_own(cli, "tape", "tape")


@pytest.mark.parametrize("strategy", ["idmapped", "chown"])
def test_a_directory_that_is_given(
    cli: CommandLine, image: Path, strategy: str
) -> None:
    """Its files stay; what the kernel has is the container's."""
    options = ("--strategy", strategy, "--hostname", "other")
    run(cli, "web", image, *options)
    assert hostname(cli, "web") == "other"
    assert (image / "etc/hostname").read_text() == "builder\n"
    assert (image / "etc/machine-id").read_text() == MACHINE_ID
    assert (image / "var/lib/dbus/machine-id").read_text() == MACHINE_ID


@pytest.mark.parametrize("kind", ["absent", "link", "pipe", "device", "dirs"])
def test_a_hostile_image(cli: CommandLine, image: Path, kind: str) -> None:
    """Nothing but files of the container is written, and nothing waits."""
    victim = image.parent / "victim"
    victim.write_text("the host's\n")
    names = ["etc/hostname", "etc/machine-id", "var/lib/dbus/machine-id"]
    for name in names:
        path = image / name
        path.unlink()
        if kind == "link":
            path.symlink_to(os.path.relpath(victim, "/"))
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, 0o666 | 0o020000, os.makedev(1, 7))
    if kind == "dirs":
        bus = image / "var/lib/dbus"
        bus.rmdir()
        bus.symlink_to(victim.parent)
        (victim.parent / "machine-id").write_text(MACHINE_ID)
    run(cli, "web", image, *OVERLAY)
    assert victim.read_text() == "the host's\n"
    if kind == "dirs":
        assert (victim.parent / "machine-id").read_text() == MACHINE_ID
    root = root_of(cli, "web")
    if kind in ("absent", "dirs"):
        assert (root / "etc/hostname").read_text() == "web\n"
        status = (root / "etc/hostname").stat()
        assert (status.st_uid, status.st_mode & 0o7777) == (BASE, 0o644)
    if kind == "absent":
        assert not (root / "etc/machine-id").exists()
    assert hostname(cli, "web") == "web"


def test_bad_input(cli: CommandLine, busybox_rootfs: Path) -> None:
    options = ("container", "run", "web", "--rootfs", busybox_rootfs)
    for name in ("", "-x", "a b", "a..b", "x" * 65, "a/b", "$(id)"):
        error = cli(*options, f"--hostname={name}").error(2)
        assert "expected labels of letters" in error
    shared = ("--mode", "host", "--uts", "host", "--hostname", "x")
    assert "excludes a host name of its own" in cli(*options, *shared).error()
