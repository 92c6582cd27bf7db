# SPDX-License-Identifier: Apache-2.0
"""Images that ask the kernel for block devices of the host."""

import errno
import hashlib
import os
import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.views import superblock
from tests.functional import guest
from tests.functional.capabilities import require

pytestmark = pytest.mark.needs("loop-devices")
MAPS = guest.id_maps()
BTRFS = 0x10000
EXT = 0x400


@pytest.fixture
def place(reachable_path: Path) -> Iterator[Path]:
    """An empty directory, with no disk left in it afterwards."""
    (reachable_path / "view").mkdir()
    (reachable_path / "host").mkdir()
    yield reachable_path
    for point in (reachable_path / "view", reachable_path / "host"):
        while guest.mountinfo(point):
            guest.call("umount", point)
    assert guest.loop_devices(reachable_path) == []
    # The kernel goes on to know disks of several devices by these names, and
    # takes what is mounted from them later for one of those.
    for loop in Path("/dev").glob("loop[0-9]*"):
        argv = ["btrfs", "device", "scan", "--forget", str(loop)]
        subprocess.run(argv, capture_output=True, timeout=60)


def empty(path: Path, megabytes: int) -> Path:
    with path.open("wb") as stream:
        stream.truncate(megabytes << 20)
    return path


@contextmanager
def disk(image: Path) -> Iterator[str]:
    """A block device of the host, which no container is given."""
    device = guest.call("losetup", "--find", "--show", image)
    try:
        yield device
    finally:
        # What an attack has mounted may use it.
        point = image.parent / "view"
        while guest.mountinfo(point):
            guest.call("umount", point)
        guest.call("losetup", "--detach", device)


def digest(device: str) -> str:
    os.sync()
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    return hashlib.sha256(Path(device).read_bytes()).hexdigest()


def attack(image: Path) -> str:
    """Mount it, change something in it, and say why that was refused."""
    view = image.parent / "view"
    before = Path("/proc/self/mountinfo").read_text()
    refused: RootfsError | None = None
    try:
        rootfs.mount_idmapped(image, view, MAPS)
    except RootfsError as err:
        refused = err
    if refused is not None:
        assert "\n" not in str(refused)
        assert refused.path == str(image)
        assert Path("/proc/self/mountinfo").read_text() == before
        return refused.reason
    guest.out(MAPS, "touch", view / "new")
    os.sync()
    guest.call("umount", view)
    return ""


def crc32c(data: bytes) -> int:
    """Return the checksum of btrfs; see RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def patch(image: Path, place: int, data: bytes) -> None:
    with image.open("r+b") as stream:
        stream.seek(place)
        stream.write(data)


def patch_btrfs(image: Path, place: int, data: bytes) -> None:
    """Change the superblock, and its checksum."""
    patch(image, BTRFS + place, data)
    with image.open("r+b") as stream:
        stream.seek(BTRFS + 0x20)
        total = crc32c(stream.read(0x1000 - 0x20))
        stream.seek(BTRFS)
        stream.write(struct.pack("<I", total))


def two_devices(place: Path) -> tuple[Path, Path]:
    """One btrfs on an image and on another disk."""
    require("btrfs")
    image, other = empty(place / "image", 120), empty(place / "other", 120)
    with disk(image) as one, disk(other) as two:
        guest.call("mkfs.btrfs", "-q", "-m", "raid1", "-d", "single", one, two)
    return image, other


def test_btrfs_on_several_devices(place: Path) -> None:
    image, other = two_devices(place)
    with disk(other) as device:
        guest.call("btrfs", "device", "scan", device)
        before = digest(device)
        reason = attack(image)
        assert digest(device) == before
    assert reason.startswith("its btrfs is on 2 devices")


def test_a_btrfs_that_hides_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its superblock does not say it, and its tree of chunks does."""
    image, other = two_devices(place)
    patch_btrfs(image, 0x88, struct.pack("<Q", 1))
    with disk(other) as device:
        guest.call("btrfs", "device", "scan", device)
        before = digest(device)
        assert "cannot be mounted" in attack(image)
        # Neither would it help to write to the image after it was looked at.
        head = image.read_bytes()[: superblock.LENGTH]
        patch_btrfs(image, 0x88, struct.pack("<Q", 2))
        pread, looked = os.pread, []

        def look_before(fd: int, size: int, offset: int) -> bytes:
            if size == superblock.LENGTH:
                looked.append(fd)
                return head
            return pread(fd, size, offset)

        monkeypatch.setattr(os, "pread", look_before)
        assert "cannot be mounted" in attack(image)
        assert looked
        assert digest(device) == before


def new_btrfs(place: Path) -> Path:
    require("btrfs")
    image = empty(place / "image", 120)
    guest.call("mkfs.btrfs", "-q", image)
    return image


def seed(image: Path) -> None:
    guest.call("btrfstune", "-S", "1", image)


def new_uuid(image: Path) -> None:
    guest.call("btrfstune", "-f", "-m", image)


def strange_uuid(image: Path) -> None:
    patch_btrfs(image, 0x20, uuid.uuid4().bytes)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (seed, "flags 0x1"),
        (new_uuid, "one UUID outside and another"),
        (strange_uuid, "is on a device of another filesystem"),
    ],
)
def test_btrfs_of_an_odd_kind(
    place: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    image = new_btrfs(place)
    spoil(image)
    assert reason in attack(image)


def test_a_btrfs_by_the_uuid_of_another(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel puts devices of one UUID together."""
    image, copy = new_btrfs(place), place / "copy"
    guest.call("cp", "--sparse=always", image, copy)
    stat = os.stat

    def on_older_linux(path: Any, **options: Any) -> os.stat_result:
        if str(path) == "/sys/fs/btrfs/features/temp_fsid":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", on_older_linux)
    guest.call("mount", "-o", "loop", image, place / "host")
    assert "is that of the btrfs mounted from loop" in attack(copy)
    guest.call("umount", place / "host")
    assert attack(copy) == ""
    # One device is not another one than itself.
    with disk(image) as device:
        with guest.mounted(Path(device), place / "view", MAPS):
            rootfs.mount_idmapped(device, place / "host", MAPS)
        guest.call("umount", place / "host")


def external_journal(image: Path, device: str) -> None:
    guest.call("mke2fs", "-q", "-O", "journal_dev", "-b", "4096", device)
    # Without checksums, for it is patched.
    argv = ["-q", "-b", "4096", "-O", "^metadata_csum"]
    guest.call("mkfs.ext4", *argv, "-J", f"device={device}", image)


def journal_by_option(image: Path, device: str) -> None:
    """The device is named by mount options in the superblock alone."""
    external_journal(image, device)
    number = os.stat(device).st_rdev
    encoded = os.major(number) << 8 | os.minor(number)
    option = f"mount_opts=journal_dev={encoded:#x}"
    guest.call("tune2fs", "-E", option, image)
    patch(image, EXT + 0xE4, bytes(4))


@pytest.mark.parametrize("make", [external_journal, journal_by_option])
def test_ext4_with_a_journal_elsewhere(
    place: Path, make: Callable[[Path, str], None]
) -> None:
    require("ext4")
    image, other = empty(place / "image", 32), empty(place / "other", 32)
    with disk(other) as device:
        make(image, device)
        before = digest(device)
        reason = attack(image)
        assert digest(device) == before
    assert "its ext4 has its journal on another device" in reason


def journal_itself(image: Path) -> None:
    guest.call("mke2fs", "-q", "-F", "-O", "journal_dev", image)


def shared_by_hosts(image: Path) -> None:
    guest.call("mkfs.ext4", "-q", "-O", "mmp", image)


def with_options(image: Path) -> None:
    guest.call("mkfs.ext4", "-q", image)
    guest.call("tune2fs", "-E", "mount_opts=journal_dev=0x700", image)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (journal_itself, "is the journal of another filesystem"),
        (shared_by_hosts, "for a disk that several hosts share"),
        (with_options, "has mount options in its superblock"),
    ],
)
def test_ext4_of_an_odd_kind(
    place: Path, make: Callable[[Path], None], reason: str
) -> None:
    require("ext4")
    image = empty(place / "image", 32)
    make(image)
    assert reason in attack(image)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-l", "logdev={},size=64m"], "has its log on another device"),
        (["-r", "rtdev={}"], "has a realtime section"),
    ],
)
def test_xfs_on_several_devices(
    place: Path, options: list[str], reason: str
) -> None:
    require("xfs")
    image, other = empty(place / "image", 320), empty(place / "other", 80)
    with disk(other) as device:
        argv = [each.format(device) for each in options]
        guest.call("mkfs.xfs", "-q", *argv, image)
        before = digest(device)
        assert reason in attack(image)
        assert digest(device) == before


def test_a_block_device_is_looked_at_too(place: Path) -> None:
    image, _ = two_devices(place)
    with (
        disk(image) as device,
        pytest.raises(RootfsError, match="is on 2 devices"),
    ):
        rootfs.mount_idmapped(device, place / "view", MAPS)
