# SPDX-License-Identifier: Apache-2.0
"""Nova's own driver with containers; ours is to do better."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.harness import Nova, RefusedError
from tests.nova.release import RELEASE

pytestmark = pytest.mark.stock

ID_MAP = "0:1900000000:65536"
MAPS = {
    "libvirt": {"uid_maps": ID_MAP, "gid_maps": ID_MAP},
    # So that a fault tells what went wrong at the first attempt.
    "scheduler": {"max_attempts": 1},
}
IDENTITY = [[0, 0, 4294967295]]
# What comes of arguments in the wrong order, in one of Nova's calls.
WRONG_ORDER = "not enough values to unpack (expected 3, got 1)"
before_34 = pytest.mark.skipif(RELEASE >= 34, reason="Nova before 34")
since_34 = pytest.mark.skipif(RELEASE < 34, reason="Nova since 34")


@pytest.fixture(scope="module")
def shared_nova(start_shared_nova: NovaFactory) -> Nova:
    """Start one without ID maps."""
    return start_shared_nova()


@pytest.fixture
def nova(shared_nova: Nova) -> Iterator[Nova]:
    yield shared_nova
    shared_nova.clean()


@pytest.fixture
def image(nova: Nova, busybox_image: ImageFactory) -> str:
    return nova.add_image(busybox_image("ext4"))


@pytest.mark.parametrize("kind", ["ext4", "ext3"])
def test_boots_without_user_namespace(
    kind: str, nova: Nova, busybox_image: ImageFactory
) -> None:
    server = nova.boot(nova.add_image(busybox_image(kind)))
    assert server.uid_map() == IDENTITY
    assert server.namespace("user") == os.readlink("/proc/self/ns/user")
    server.delete()
    nova.wait_for_no_leftovers()


def test_whole_life(nova: Nova, image: str) -> None:
    server = nova.boot(image)
    server.run_in("sh", "-c", "echo kept > /root/note; sync")
    server.stop()
    server.start()
    server.reboot("HARD")
    assert server.run_in("cat", "/root/note").stdout == "kept\n"
    other = nova.boot(server.snapshot())
    assert other.run_in("cat", "/root/note").stdout == "kept\n"
    nova.stop_compute()
    nova.start_compute()
    other.delete()
    server.delete()
    nova.wait_for_no_leftovers()


def test_shares_the_network_of_the_host(nova: Nova, image: str) -> None:
    server = nova.boot(image)
    assert "<privnet/>" not in server.xml()
    assert server.namespace("net") == os.readlink("/proc/self/ns/net")


def test_reboot_from_inside_is_the_end(nova: Nova, image: str) -> None:
    server = nova.boot(image)
    assert nova.leftovers().mounts == ()
    with pytest.raises(AssertionError, match="it has not come back"):
        server.reboot_inside()
    assert not server.domain().isActive()


def test_soft_reboot_is_a_hard_one(nova: Nova, image: str) -> None:
    """Another process of libvirt runs it then."""
    server = nova.boot(image)
    before = server.domain().ID()
    server.reboot("SOFT")
    assert server.domain().ID() != before


def test_snapshot_needs_a_format(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova({"libvirt": {"snapshot_image_format": None}})
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    # Nova has qemu-img convert the disk to the format "None".
    with pytest.raises(AssertionError, match="has deleted the image"):
        server.snapshot()


@pytest.mark.parametrize(
    ("privsep_daemon", "fault"),
    [
        (True, "can not serialize 'LibvirtConfigGuest.IDMap' object"),
        (False, "cannot unpack non-iterable LibvirtConfigGuest.IDMap object"),
    ],
)
def test_no_boot_with_maps(
    privsep_daemon: bool,
    fault: str,
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
) -> None:
    nova = start_nova(MAPS, privsep_daemon=privsep_daemon)
    server = nova.boot(nova.add_image(busybox_image("ext4")), "ERROR")
    assert re.fullmatch(fault, server.fault)
    server.delete()


def test_no_boot_with_maps_that_work(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova(MAPS)
    nova.run("tests.nova.injections:shift_by_tuples")
    server = nova.boot(nova.add_image(busybox_image("ext4")), "ERROR")
    if RELEASE < 34:
        assert server.fault == WRONG_ORDER
    else:
        # As it has no network of its own, /sys is the host's.
        assert "Unable to create directory /sys/fs/cgroup" in server.fault
    server.delete()
    nova.wait_for_no_leftovers()


@before_34
def test_shift_fails(nova: Nova, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=re.escape(WRONG_ORDER)):
        nova.run("tests.nova.injections:shift", str(tmp_path), [0, 1, 2])


@since_34
def test_shift_ruins_files(nova: Nova, tmp_path: Path) -> None:
    for name in ("once", "twice", "su"):
        (tmp_path / name).touch()
    (tmp_path / "link").hardlink_to(tmp_path / "twice")
    (tmp_path / "su").chmod(0o4755)
    nova.run(
        "tests.nova.injections:shift", str(tmp_path), [0, 1900000000, 65536]
    )
    assert (tmp_path / "once").stat().st_uid == 1900000000
    assert (tmp_path / "twice").stat().st_uid == 65534
    assert (tmp_path / "su").stat().st_mode == stat.S_IFREG | 0o755


@since_34
def test_bad_maps_are_no_maps(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    bad = ID_MAP.removesuffix(":65536")
    nova = start_nova({"libvirt": {"uid_maps": bad, "gid_maps": bad}})
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    assert server.uid_map() == IDENTITY
    owner = server.run_in("stat", "-c", "%u", "/etc/passwd").stdout
    assert owner == "65534\n"
    server.delete()
