# SPDX-License-Identifier: Apache-2.0
"""Volumes that are disk images, as a container sees them."""

from contextlib import suppress
from pathlib import Path

import pytest

from lxc_userns.exceptions import ImageError, RootfsError
from lxc_userns.linux import mounts
from lxc_userns.rootfs.views import image_volumes, source
from lxc_userns.spec.volume import Volume
from tests.functional import guest, images
from tests.functional.descriptors import own_descriptors
from tests.functional.rootfs.volume_host import (
    ALICE,
    ONE,
    OTHER,
    UNMAPPED,
    Host,
    hidden,
    host,
    owner,
    refused,
    seen,
)

__all__ = ["hidden", "host"]

pytestmark = pytest.mark.needs("loop-devices")


@pytest.fixture
def disk(hidden: Path) -> Path:
    """Make a disk image with files of several owners."""
    return images.make_image("ext4", hidden.parent / "disk", 16, root=hidden)


def options(point: Path) -> frozenset[str]:
    """Return the options of the mount that is there."""
    (found,) = (each for each in mounts.read_mounts()
                if each.point == str(point))  # fmt: skip
    return found.options


def test_its_filesystem_is_idmapped(host: Host, disk: Path) -> None:
    point = host.mount(f"{disk}:/data:image")
    assert {"idmapped", "nosuid", "nodev"} <= options(point)
    assert seen(point, "stat -c %u root alice other").split() == [
        "0", str(ALICE), "65534",
    ]  # fmt: skip
    seen(point, f"echo >alice-made; chown {ALICE}:{ALICE} alice-made")
    host.views.unmount("one")
    guest.wait_for_no_disk(disk.parent)
    # Other ID maps are another container's, with the same owners on disk.
    point = host.mount(f"{disk}:/data:image", OTHER, "two")
    assert seen(point, "stat -c %u alice-made", id_maps=OTHER) == str(ALICE)
    assert owner(point / "alice-made") == (1_950_000_000 + ALICE,) * 2
    host.views.unmount("two")
    guest.wait_for_no_disk(disk.parent)


def test_one_that_is_written_to_is_for_one_alone(
    host: Host, disk: Path
) -> None:
    host.mount(f"{disk}:/data:image")
    descriptors = own_descriptors()
    for kind in ("image", "image,ro"):
        with pytest.raises(RootfsError, match="is in use already"):
            host.mount(f"{disk}:/data:{kind}", OTHER, "two")
    assert own_descriptors() == descriptors
    host.views.unmount("one")
    with suppress(RootfsError):
        host.views.unmount("two")
    guest.wait_for_no_disk(disk.parent)


def test_many_read_one(host: Host, disk: Path) -> None:
    before = disk.read_bytes()
    for name, id_maps in (("one", ONE), ("two", OTHER)):
        point = host.mount(f"{disk}:/data:image,ro", id_maps, name)
        assert "ro" in options(point)
        assert "Read-only" in refused(point, "touch new", id_maps=id_maps)
    for name in ("one", "two"):
        host.views.unmount(name)
    guest.wait_for_no_disk(disk.parent)
    assert disk.read_bytes() == before


def test_owners_as_they_are(host: Host, disk: Path) -> None:
    point = host.mount(f"{disk}:/data:image,none")
    assert owner(point / "alice") == (ALICE, ALICE)
    assert seen(point, "stat -c %u alice") == "65534"
    assert "denied" in refused(point, "touch new")
    host.views.unmount("one")
    # As a container in the host's user namespace sees them.
    point = host.mount(f"{disk}:/data:image", None)
    assert owner(point / "root") == (0, 0)
    assert "nosuid" in options(point)
    host.views.unmount("one")
    guest.wait_for_no_disk(disk.parent)


def test_a_file_is_a_disk_only_if_that_is_said(host: Host, disk: Path) -> None:
    point = host.mount(f"{disk}:/data:none")
    assert point.is_file()
    host.views.unmount("one")


def test_what_is_refused(host: Host, hidden: Path) -> None:
    empty = hidden.parent / "empty"
    empty.write_bytes(bytes(1 << 20))
    for path, error, reason in (
        (empty, ImageError, "no raw image of ext2, ext3, ext4"),
        (hidden, RootfsError, "is no regular file; give a raw disk image"),
    ):
        with pytest.raises(error, match=reason):
            host.mount(f"{path}:/data:image")
    volume = Volume(str(empty), "/data", image=True)
    with (
        image_volumes.opened(volume) as found,
        pytest.raises(ImageError, match="no raw image"),
    ):
        found.check_idmapped(ONE)
    guest.wait_for_no_disk(hidden.parent)


def test_one_whose_root_is_no_guest_id(host: Host, hidden: Path) -> None:
    """All in it would be nobody's."""
    options = f"root_owner={UNMAPPED}:{UNMAPPED}"
    disk = images.make_image("ext4", hidden.parent / "disk", 16, "-E", options)
    with pytest.raises(RootfsError, match=str(UNMAPPED)):
        host.mount(f"{disk}:/data:image")
    guest.wait_for_no_disk(hidden.parent)


def test_one_that_asks_for_other_devices(host: Host, disk: Path) -> None:
    """It is looked at as root filesystems are."""
    with disk.open("r+b") as stream:
        stream.seek(0x4E4)
        stream.write(b"\1")
    with pytest.raises(ImageError, match="journal on another device"):
        host.mount(f"{disk}:/data:image")
    with (
        pytest.raises(ImageError, match="journal on another device"),
        source.open_source(str(disk)),
    ):
        pass
    guest.wait_for_no_disk(disk.parent)
