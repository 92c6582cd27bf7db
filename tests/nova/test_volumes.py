# SPDX-License-Identifier: Apache-2.0
"""Servers that boot from volumes, which are block devices of the host."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

from tests.nova.conftest import (
    ImageFactory,
    NovaFactory,
    UserFactory,
    need_freezer,
)
from tests.nova.harness import Nova
from tests.nova.ours import DRIVER, is_private, resizable
from tests.nova.server import Server

#: Of Nova's fixture for volumes; the other has ``os_require_quiesce``.
VOLUME = "6ca404f3-d844-4169-bb96-bc792f37de98"
QUIESCED = "6ca404f3-d844-4169-bb96-bc792f37de26"
#: Of the volume, in bytes; the filesystem that it gets has half of it.
SIZE = 64 << 20


@pytest.fixture
def links() -> Iterator[Path]:
    """Make a directory in ``/dev``, as that of a volume group."""
    path = Path(tempfile.mkdtemp(prefix="lxc-userns-test-", dir="/dev"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def attached(image: Path, link: Path) -> Iterator[None]:
    """Attach a file as a block device, and link to it."""
    argv = ["losetup", "--find", "--show", str(image)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    link.symlink_to(device)
    try:
        yield
    finally:
        link.unlink()
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def volume(
    tmp_path: Path, links: Path, busybox_image: ImageFactory
) -> Iterator[Path]:
    """Make a volume with a root filesystem."""
    image = tmp_path / "volume"
    shutil.copyfile(busybox_image("ext4"), image)
    os.truncate(image, SIZE)
    with attached(image, links / "volume"):
        yield links / "volume"
    subprocess.run(["e2fsck", "-fn", image], check=True)


def boot(
    nova: Nova, volume: Path, expect: str = "ACTIVE", uuid: str = VOLUME
) -> Server:
    """Boot a server whose root filesystem is a volume."""
    nova.ask("make_volume", uuid, str(volume), str(nova.directory))
    root = {
        "boot_index": 0,
        "source_type": "volume",
        "destination_type": "volume",
        "uuid": uuid,
    }
    return nova.boot("", expect, block_device_mapping_v2=[root])


def allow(nova: Nova, *roots: Path) -> None:
    """Let the privileged helper use what is below some directories."""
    names = ",".join(map(str, roots))
    nova.stop_compute()
    nova.configure({"lxc_userns_privileged": {"roots": names}})
    nova.start_compute()


def restart(server: Server) -> None:
    server.stop()
    server.start()


def confirm(server: Server) -> None:
    server.resize(server.nova.flavor(2))
    server.confirm()


def revert(server: Server) -> None:
    server.resize(server.nova.flavor(3))
    server.revert()


def shelve(server: Server) -> None:
    server.action("shelve")
    server.wait("SHELVED_OFFLOADED")
    server.action("unshelve")
    server.wait()


def test_life(start_nova: NovaFactory, volume: Path, strategy: str) -> None:
    nova = start_nova(resizable(strategy))
    allow(nova, nova.instances, volume.parent)
    server = boot(nova, volume)
    assert is_private(server)
    # Less what it needs for itself.
    there = server.run_in("stat", "-f", "-c%b %S", "/").stdout.split()
    assert int(there[0]) * int(there[1]) > 0.8 * SIZE
    server.run_in("sh", "-c", "echo >/note; chown 1000:1000 /note")
    for again in (Server.reboot, restart, confirm, revert, shelve):
        again(server)
        assert is_private(server), again
        assert server.run_in("stat", "-c%u", "/note").stdout == "1000\n"
    assert not server.disk.exists()
    server.delete()
    nova.wait_for_no_leftovers()
    assert nova.tracebacks() == []


@pytest.mark.parametrize("uuid", [VOLUME, QUIESCED])
def test_a_snapshot(
    start_nova: NovaFactory, volume: Path, uuid: str, strategy: str
) -> None:
    """Others make it; what is on the volume is whole by then."""
    if uuid == QUIESCED:
        need_freezer()
    nova = start_nova(resizable(strategy))
    allow(nova, nova.instances, volume.parent)
    server = boot(nova, volume, uuid=uuid)
    server.run_in("sh", "-c", "echo kept >/note")
    made = nova.image(server.snapshot())
    assert made is not None
    (mapped,) = made["properties"]["block_device_mapping"]
    assert mapped["source_type"] == "snapshot"
    state = libvirt.VIR_DOMAIN_RUNNING
    if uuid == QUIESCED:
        state = libvirt.VIR_DOMAIN_PAUSED
    copy = f"{nova.directory}/snapshot.{state}"
    argv = ["debugfs", "-R", "cat /note", copy]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout == "kept\n"
    assert server.run_in("cat", "/note").stdout == "kept\n"
    server.delete()


def test_of_a_service_that_is_not_root(
    make_user: UserFactory, start_nova: NovaFactory, volume: Path
) -> None:
    nova = start_nova(DRIVER, user=make_user("sudo"))
    server = boot(nova, volume, "ERROR")
    # It may be otherwise on another host, which Nova looks for in vain.
    said = f"{volume}: is not below {nova.instances}"
    assert any(said in each.text for each in nova.history())
    server.delete()
    allow(nova, nova.instances, volume.parent)
    server = boot(nova, volume)
    assert is_private(server)
    server.delete()
    nova.wait_for_no_leftovers()
