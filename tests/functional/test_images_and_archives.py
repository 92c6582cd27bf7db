# SPDX-License-Identifier: Apache-2.0
"""Root filesystems out of disk images and archives."""

import os
import subprocess
from pathlib import Path

import pytest

from lxc_userns.exceptions import ImageError
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest
from tests.functional import images
from tests.functional.command_line import BASE, CommandLine
from tests.functional.containers import (
    SLEEP,
    UUID,
    cli,
    pid_of,
    run,
    stop,
)
from tests.functional.guest import ask, loop_devices
from tests.functional.images import EFI, LINUX, ROOT

__all__ = ["cli"]

pytestmark = pytest.mark.needs("containers")


def make_disk(kind: str, rootfs: Path, path: Path) -> Path:
    """Make a disk image of a root filesystem."""
    size = 64 if kind.startswith("ext") else 512
    return images.make_image(kind, path, size, root=rootfs)


@pytest.mark.parametrize("kind", ["ext3", "ext4", "xfs", "btrfs"])
def test_an_image(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path, kind: str
) -> None:
    image = make_disk(kind, busybox_rootfs, tmp_path / "disk.img")
    shown = run(cli, "disk", image)
    assert (shown["strategy"], shown["rootfs"]) == ("idmapped", str(image))
    assert loop_devices(tmp_path) == [str(image)]
    view = Path(str(shown["view"]))
    assert view.stat().st_uid == BASE
    assert os.statvfs(view).f_flag & os.ST_NODEV
    ask(pid_of(cli, "disk"), "echo kept >/file")
    # Two that write to one disk would ruin it.
    for strategy in ("idmapped", "overlay", "chown"):
        done = cli("container", "run", "other", "--rootfs", image,
                   "--strategy", strategy, "--init", SLEEP)  # fmt: skip
        assert "is in use by the instance disk" in done.error()
    stop(cli, "disk")
    assert loop_devices(tmp_path) == []
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "cat /file") == "kept"
    assert cli("container", "destroy", "disk").code == 0
    assert image.exists()


def around(disk: Path, size: int) -> tuple[bytes, bytes]:
    """Return what is before the root filesystem, and behind it."""
    content, start = disk.read_bytes(), images.PARTITION
    return content[:start], content[start + size :]


@pytest.mark.parametrize(
    ("kind", "label", "type", "other"),
    [
        ("ext4", "gpt", ROOT, EFI),
        ("xfs", "gpt", LINUX, EFI),
        ("ext4", "dos", "83", "ef"),
    ],
)
def test_a_partitioned_image(
    cli: CommandLine,
    busybox_rootfs: Path,
    tmp_path: Path,
    kind: str,
    label: str,
    type: str,
    other: str,
) -> None:
    filesystem = make_disk(kind, busybox_rootfs, tmp_path / "filesystem")
    size = filesystem.stat().st_size
    disk = tmp_path / "disk.img"
    images.make_partitioned(disk, filesystem, label, type, other)
    before = around(disk, size)
    run(cli, "disk", disk)
    ask(pid_of(cli, "disk"), "echo kept >/file")
    assert cli("container", "verify", "disk").code == 0
    stop(cli, "disk")
    assert loop_devices(tmp_path) == []
    assert around(disk, size) == before
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "cat /file") == "kept"
    assert cli("container", "destroy", "disk").code == 0
    run(cli, "below", disk, "--strategy", "overlay")
    assert ask(pid_of(cli, "below"), "cat /file") == "kept"
    assert cli("container", "destroy", "below").code == 0


def test_a_partitioned_image_that_is_ambiguous(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    filesystem = make_disk("ext4", busybox_rootfs, tmp_path / "filesystem")
    disk = tmp_path / "disk.img"
    start = "container", "run", "disk", "--rootfs", disk, "--init", SLEEP
    for type, other, said in (
        (LINUX, LINUX, "several partitions that may be the root filesystem "),
        (EFI, EFI, "a partition table without a partition of Linux"),
        # The filesystem of another partition is not taken instead.
        (EFI, ROOT, f"{disk}, partition 1: is no raw image of ext2"),
    ):
        images.make_partitioned(disk, filesystem, "gpt", type, other)
        assert said in cli(*start).error()
        assert loop_devices(tmp_path) == []


def test_an_image_below_two_overlays(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = make_disk("ext4", busybox_rootfs, tmp_path / "disk.img")
    before = image.read_bytes()
    for name in ("one", "two"):
        run(cli, name, image, "--strategy", "overlay")
        ask(pid_of(cli, name), f"echo {name} >/etc/hostname")
    assert ask(pid_of(cli, "one"), "cat /etc/hostname") == "one"
    for name in ("one", "two"):
        stop(cli, name)
    cli.json("container", "start", "one")
    assert ask(pid_of(cli, "one"), "cat /etc/hostname") == "one"
    assert cli("container", "destroy", "one").code == 0
    assert image.read_bytes() == before


def test_an_image_shifted_on_disk(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = make_disk("ext4", busybox_rootfs, tmp_path / "disk.img")
    run(cli, "disk", image, "--strategy", "chown")
    assert ask(pid_of(cli, "disk"), "stat -c %u /bin/su") == "0"
    stop(cli, "disk")
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "stat -c %u /bin/su") == "0"


def test_an_image_that_says_it_is_shifted(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = make_disk("xfs", busybox_rootfs, tmp_path / "disk.img")
    run(cli, "disk", image, "--strategy", "chown")
    view = cli.run / "disk/root"
    state = os.getxattr(view, "trusted.lxc_userns.state")
    stop(cli, "disk")
    # Written anew, it is the same file with another filesystem in it, whose
    # owners are not what it says.
    os.setxattr(busybox_rootfs, "trusted.lxc_userns.state", state)
    os.chown(busybox_rootfs, BASE, BASE)
    other = make_disk("xfs", busybox_rootfs, tmp_path / "other.img")
    inode = image.stat().st_ino
    with image.open("r+b") as stream:
        stream.write(other.read_bytes())
    assert image.stat().st_ino == inode
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "stat -c %u /bin/su") == "0"


@pytest.mark.parametrize("strategy", ["auto", "chown", "overlay"])
def test_an_archive(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path, strategy: str
) -> None:
    archive = tmp_path / "root.tar.gz"
    argv = ["tar", "-C", str(busybox_rootfs), "-czf", str(archive), "."]
    subprocess.run(argv, check=True)
    shown = run(cli, "tape", archive, "--strategy", strategy)
    rootfs = cli.state / "private/tape/rootfs"
    assert shown["archive"] == str(archive)
    assert shown["rootfs_kind"] == "archive"
    assert shown["rootfs"] == str(rootfs)
    on_disk = BASE if strategy == "chown" else 0
    assert (rootfs / "bin/su").stat().st_uid == on_disk
    assert ask(pid_of(cli, "tape"), "stat -c '%u %a' /bin/su") == "0 4755"
    ask(pid_of(cli, "tape"), "echo kept >/file")
    # It is not needed any more.
    archive.unlink()
    stop(cli, "tape")
    cli.json("container", "start", "tape")
    assert ask(pid_of(cli, "tape"), "cat /file") == "kept"
    assert cli("container", "destroy", "tape").code == 0
    assert not rootfs.parent.exists()


def test_an_archive_of_more_than_is_allowed(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    with cli.config.open("a") as stream:
        stream.write("[lxc_userns]\nunpack_max_bytes = 1 MiB\n")
    archive = tmp_path / "root.tar.gz"
    argv = ["tar", "-C", str(busybox_rootfs), "-czf", str(archive), "."]
    subprocess.run(argv, check=True)
    done = cli("container", "run", "tape", "--rootfs", archive)
    assert "unpacks to more than 1 MiB; raise [lxc_userns]" in done.error()
    assert done.code == 1
    assert cli.json("container", "list") == []
    assert list(cli.state.glob("private/*")) == []


@pytest.mark.parametrize("option", ["-c", "-cz"])
def test_an_archive_given_as_an_image(
    manager: UserNamespaceManager,
    cli: CommandLine,
    busybox_rootfs: Path,
    tmp_path: Path,
    option: str,
) -> None:
    """A tenant may give one to a compute service."""
    image = tmp_path / "disk"
    argv = ["tar", "-C", str(busybox_rootfs), option, "-f", str(image), "."]
    subprocess.run(argv, check=True)
    request = InstanceRequest("disk", UUID, str(image), rootfs_kind="image")
    with pytest.raises(ImageError, match=r"and no raw image of ext2, "):
        manager.prepare(request)
    assert cli.services().store.load("disk") is None
    assert list(cli.state.glob("private/*")) == []


def test_an_archive_that_is_cut_off_leaves_nothing(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar.gz"
    argv = ["tar", "-C", str(busybox_rootfs), "-czf", str(archive), "."]
    subprocess.run(argv, check=True)
    os.truncate(archive, archive.stat().st_size // 2)
    done = cli("container", "run", "tape", "--rootfs", archive)
    assert str(archive) in done.error()
    assert cli.json("container", "list") == []
    assert list(cli.state.glob("private/*")) == []
