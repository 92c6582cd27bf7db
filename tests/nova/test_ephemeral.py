# SPDX-License-Identifier: Apache-2.0
"""Ephemeral disks, which a container has as directories, and swap."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.functional.capabilities import require
from tests.nova.conftest import ImageFactory, NovaFactory, UserFactory, cleaned
from tests.nova.harness import Nova
from tests.nova.ours import DRIVER, is_private, resizable
from tests.nova.server import Server
from tests.waiting import wait_for

FLAVOR = "OS-FLV-EXT-DATA:ephemeral"


@pytest.fixture
def nova(start_nova: NovaFactory, strategy: str) -> Iterator[Nova]:
    """Start one with ID maps, and look that nothing is left."""
    yield from cleaned(start_nova(resizable(strategy)))


def mounted(server: Server, place: str) -> tuple[str, set[str]]:
    """Return the type of what a container has there, and its options."""
    found = server.run_in("grep", f" {place} ", "/proc/mounts").stdout
    _, _, kind, options, *_ = found.split()
    return kind, {*options.split(",")}


def gibibytes(server: Server, place: str) -> float:
    """Return its size, as the container's own processes see it."""
    shown = server.run_in("stat", "-f", "-c", "%b %S", place).stdout
    number, size = map(int, shown.split())
    return number * size / (1 << 30)


def owner_on_disk(server: Server, name: str, path: str) -> str:
    """Return who owns a file on a disk, looked at without mounting it."""
    argv = ["debugfs", "-R", f"stat {path}", str(server.directory / name)]

    def look() -> list[str]:
        # The kernel writes it when the last process of the container is gone.
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return done.stdout.partition("User:")[2].split()

    return wait_for(look, 30.0)[0]


def is_there(server: Server) -> bool:
    """Return whether it has its disk, for it alone, as its root sees it."""
    kind, options = mounted(server, "/mnt")
    assert kind == "ext4"
    assert {"rw", "nosuid", "nodev"} <= options
    assert 0.8 < gibibytes(server, "/mnt") <= 1
    shown = server.run_in("stat", "-c", "%u %g", "/mnt", "/mnt/note").stdout
    assert shown.split() == ["0", "0", "1000", "1000"]
    return is_private(server)


def test_an_ephemeral_disk(nova: Nova, busybox_image: ImageFactory) -> None:
    image = nova.add_image(busybox_image("ext4"))
    server = nova.boot(image, flavor=nova.flavor(1, FLAVOR))
    server.run_in("sh", "-c", "echo >/mnt/note; chown 1000:1000 /mnt/note")
    assert is_there(server)
    server.stop()
    server.start()
    assert is_there(server)
    server.reboot("HARD")
    assert is_there(server)
    server.stop()
    # Guest IDs, whatever becomes of those of the root.
    assert owner_on_disk(server, "disk.eph0", "/note") == "1000"
    server.start()
    server.resize(nova.flavor(2, FLAVOR))
    assert is_there(server)
    server.confirm()
    server.action("rebuild", {"imageRef": image})
    server.wait()
    assert server.run_in("ls", "/mnt").stdout == "lost+found\n"
    # Who has none has an empty directory at most.
    other = nova.boot(image)
    done = other.run_in("grep", " /mnt ", "/proc/mounts", check=False)
    assert done.stdout == ""
    assert nova.tracebacks() == []


def test_ephemeral_disks_of_a_service_that_is_not_root(
    make_user: UserFactory,
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
) -> None:
    nova = start_nova(DRIVER, user=make_user("sudo"))
    image = nova.add_image(busybox_image("ext4"))
    server = nova.boot(image, flavor=nova.flavor(1, FLAVOR))
    server.run_in("sh", "-c", "echo >/mnt/note; chown 1000:1000 /mnt/note")
    assert is_there(server)
    server.delete()
    nova.wait_for_no_leftovers()


def devices(*formats: str | None) -> list[dict[str, object]]:
    """Return what the API takes for a root disk and ephemeral ones."""
    root = {
        "boot_index": 0,
        "source_type": "image",
        "destination_type": "local",
    }
    others = [
        {
            "boot_index": -1,
            "source_type": "blank",
            "destination_type": "local",
            "volume_size": 1,
            **({"guest_format": each} if each else {}),
        }
        for each in formats
    ]
    return [root, *others]


def boot(nova: Nova, image: str, expect: str, *formats: str | None) -> Server:
    """Boot one with ephemeral disks that it asks for itself."""
    asked = devices(*formats)
    asked[0]["uuid"] = image
    flavor = nova.flavor(1, FLAVOR, len(formats))
    return nova.boot(
        image, expect, flavor=flavor, block_device_mapping_v2=asked
    )


def test_several_with_filesystems_of_their_own(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    require("xfs")
    image = nova.add_image(busybox_image("ext4"))
    server = boot(nova, image, "ACTIVE", "xfs", None)
    for _ in range(2):
        assert mounted(server, "/mnt")[0] == "xfs"
        assert mounted(server, "/mnt1")[0] == "ext4"
        assert is_private(server)
        server.reboot("HARD")


def test_one_that_a_container_is_not_shown(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    image = nova.add_image(busybox_image("ext4"))
    server = boot(nova, image, "ERROR", "vfat")
    said = "guest_format 'vfat': expected ext4, ext3, ext2, xfs"
    assert said in server.fault
    assert not server.directory.exists()


def test_swap(nova: Nova, busybox_image: ImageFactory) -> None:
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(1, "swap")
    said = "flavor 'swap': a container has no swap of its own"
    server = nova.boot(image, "ERROR", flavor=flavor)
    assert said in server.fault
    assert "maximum number of retries" not in server.fault
    assert not server.directory.exists()
    server = nova.boot(image)
    pid = server.init_pid()
    server.action("resize", {"flavorRef": flavor})
    assert said in server.what_failed("resize")
    assert server.wait().init_pid() == pid


def test_a_resize_to_another_ephemeral_disk(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    pid = server.init_pid()
    server.action("resize", {"flavorRef": nova.flavor(1, FLAVOR)})
    said = "flavor 'ephemeral disk': has 1 GiB, and the instance keeps 0 GiB"
    assert said in server.what_failed("resize")
    assert server.wait().init_pid() == pid
