# SPDX-License-Identifier: Apache-2.0
"""Filesystems of images that are grown to all of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.exceptions import ImageError, RootfsError
from lxc_userns.rootfs.views import growth, source
from tests.functional import guest, images
from tests.functional.capabilities import require
from tests.functional.descriptors import own_descriptors

pytestmark = pytest.mark.needs("loop-devices")
MEGABYTES = {"xfs": 300, "btrfs": 120}
CHECKS = {
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check"],
}
LARGE = 700 << 20
#: Bytes of a partition table, with those of GPT.
LABEL = 34 * 512


def make(kind: str, path: Path, *options: str, size: int = 0) -> Path:
    """Make an image with a file in it.

    :param size: in MiB; 0: the least.
    """
    require(kind)
    root = path.parent / "root"
    root.mkdir(exist_ok=True)
    (root / "file").write_text("kept")
    size = size or MEGABYTES.get(kind, 16)
    return images.make_image(kind, path, size, *options, root=root)


def size_of(image: Path, *, grow: bool, readonly: bool = False) -> int:
    """Bytes of the filesystem in an image, as its driver has them."""
    with source.open_source(str(image), grow=grow, readonly=readonly) as tree:
        assert "file" in os.listdir(tree.fd)
        found = os.statvfs(tree.fd)
    guest.wait_for_no_disk(image.parent)
    return found.f_frsize * found.f_blocks


def check(kind: str, image: Path, offset: int = 0) -> None:
    """Let the filesystem's own tool look at it."""
    options = ["--find", "--show", "--offset", str(offset)]
    device = guest.call("losetup", *options, image)
    try:
        guest.call(*CHECKS[kind], device)
    finally:
        guest.call("losetup", "--detach", device)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_filesystem_gets_as_large_as_its_image(
    reachable_path: Path, kind: str
) -> None:
    image = make(kind, reachable_path / "image")
    before = size_of(image, grow=True)
    os.truncate(image, LARGE)
    assert size_of(image, grow=False) == before
    after = size_of(image, grow=True)
    assert LARGE * 0.8 < after <= LARGE
    assert after > before
    assert size_of(image, grow=True) == after
    check(kind, image)


def test_ext4_stays_as_it_is(reachable_path: Path) -> None:
    disk = reachable_path / "disk"
    images.make_partitioned(disk, make("ext4", reachable_path / "image"))
    os.truncate(disk, LARGE)
    table = disk.read_bytes()[:LABEL]
    before = size_of(disk, grow=False)
    assert size_of(disk, grow=True) == before
    assert disk.read_bytes()[:LABEL] == table


@pytest.mark.parametrize("kind", CHECKS)
def test_one_that_is_shared_stays_as_it_is(
    reachable_path: Path, kind: str
) -> None:
    image = make(kind, reachable_path / "image")
    before = size_of(image, grow=False, readonly=True)
    os.truncate(image, LARGE)
    content = image.read_bytes()
    assert size_of(image, grow=True, readonly=True) == before
    assert image.read_bytes() == content


def table_of(disk: Path) -> dict[str, Any]:
    """Its partition table as sfdisk has it, without complaint."""
    done = guest.complete("sfdisk", "--json", disk)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No errors detected" in guest.call("sfdisk", "--verify", disk)
    found: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    return found


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_the_last_partition_grows_with_it(
    reachable_path: Path, kind: str, label: str
) -> None:
    types = {"gpt": (images.ROOT, images.EFI), "dos": ("83", "ef")}
    disk = reachable_path / "disk"
    filesystem = make(kind, reachable_path / "image")
    images.make_partitioned(disk, filesystem, label, *types[label])
    before = table_of(disk)
    os.truncate(disk, LARGE)
    small = size_of(disk, grow=False)
    large = size_of(disk, grow=True)
    assert small < LARGE * 0.5 < LARGE * 0.8 < large
    assert size_of(disk, grow=True) == large
    check(kind, disk, images.PARTITION)
    after = table_of(disk)
    _, second = after["partitions"]
    behind = 34 if label == "gpt" else 0
    end = (second["start"] + second["size"]) * 512
    assert end == LARGE - max(behind - 1, 0) * 512
    # All else is as it was.
    second["size"] = before["partitions"][1]["size"]
    after.pop("lastlba", None), before.pop("lastlba", None)
    assert after == before


def test_a_partition_before_another_stays_as_it_is(
    reachable_path: Path,
) -> None:
    disk = reachable_path / "disk"
    filesystem = make("xfs", reachable_path / "image")
    images.make_partitioned(disk, filesystem)
    os.truncate(disk, LARGE)
    argv = ("sfdisk", "--quiet", "--no-tell-kernel", "--append", disk)
    guest.call("sh", "-c", f"echo size=2048 | {' '.join(map(str, argv))}")
    before = table_of(disk)
    size = size_of(disk, grow=False)
    assert size_of(disk, grow=True) == size
    assert table_of(disk) == before


def test_one_that_would_keep_the_kernel_busy(reachable_path: Path) -> None:
    options = ("-d", "agsize=80m")
    image = make("xfs", reachable_path / "image", *options, size=320)
    before = size_of(image, grow=True)
    os.truncate(image, 8 << 40)
    descriptors = own_descriptors()
    with pytest.raises(
        ImageError,
        match="would have 104858 allocation groups of 80 MiB at 8 TiB",
    ):
        size_of(image, grow=True)
    assert own_descriptors() == descriptors
    guest.wait_for_no_disk(reachable_path)
    assert size_of(image, grow=False) == before


def test_one_that_its_driver_does_not_grow(reachable_path: Path) -> None:
    image = make("xfs", reachable_path / "image")
    os.truncate(image, LARGE)
    with source.open_source(str(image), readonly=True) as tree:
        assert tree.image is not None
        reason = "its xfs cannot be grown to 700 MiB: Read-only"
        with pytest.raises(RootfsError, match=reason):
            growth.grow(tree.image, tree.fd)
    guest.wait_for_no_disk(reachable_path)
