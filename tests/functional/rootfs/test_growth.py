# SPDX-License-Identifier: Apache-2.0
"""Filesystems of images that are grown to all of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.exceptions import ImageError, RootfsError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.views import growth, source
from tests.functional import guest, images
from tests.functional.capabilities import require
from tests.functional.descriptors import own_descriptors

pytestmark = pytest.mark.needs("loop-devices")
MEGABYTES = {"xfs": 300, "btrfs": 120}
CHECKS = {
    "ext2": ["e2fsck", "-fn"],
    "ext3": ["e2fsck", "-fn"],
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check"],
}
LARGE = 700 << 20
#: What the container's root is to the host.
ID_MAPS = IdMaps(
    IdMap.parse("0:2013265920:65536"), IdMap.parse("0:2013331456:65536")
)
PATIENCE = 30.0


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


def keep(image: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Look that a filesystem is not grown, and is in order; return why."""
    before = size_of(image, grow=False)
    assert size_of(image, grow=True) == before
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    text = record.getMessage()
    assert text.startswith(f"{image}: its ext4 is not grown to ")
    return text.rpartition("stays as it is: ")[2]


def test_an_ext4_that_resize2fs_refuses(
    reachable_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not grow clusters unless it is forced to."""
    image = make("ext4", reachable_path / "image", "-O", "bigalloc")
    os.truncate(image, 1 << 30)
    assert keep(image, caplog) == "resize2fs failed with exit code 1"
    check("ext4", image)


def test_an_ext4_of_too_many_groups(
    reachable_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = make("ext4", reachable_path / "image", "-g", "256")
    os.truncate(image, 17 << 30)
    assert keep(image, caplog) == "it would have 69632 block groups"


def test_an_ext3_that_has_errors(
    reachable_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of which a person has to say what becomes of them."""
    image = make("ext3", reachable_path / "image")
    commands = "write /etc/passwd other\nsif /other block[0] {}\n"
    block = guest.call("debugfs", "-R", "bmap /file 0", image).strip()
    subprocess.run(
        ["debugfs", "-w", "-f", "-", image],
        input=commands.format(block),
        check=True,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    os.truncate(image, LARGE)
    assert keep(image, caplog) == "e2fsck failed with exit code 4"


def grown(image: Path) -> list[str]:
    """Return the command of a process that grows an image."""
    code = (
        "import sys\n"
        "from lxc_userns.idmap import IdMap, IdMaps\n"
        "from lxc_userns.rootfs.views import source\n"
        "maps = IdMaps(*map(IdMap.parse, sys.argv[2:]))\n"
        "with source.open_source(sys.argv[1], grow=True, id_maps=maps): pass\n"
    )
    texts = map(str, (ID_MAPS.uid, ID_MAPS.gid))
    return [sys.executable, "-c", code, str(image), *texts]


def make_slow(path: Path) -> Path:
    """Make an image that takes resize2fs a while: of many small groups."""
    image = make("ext4", path, "-b", "1024", size=64)
    os.truncate(image, 60 << 30)
    return image


def first_children(pid: int) -> list[int]:
    """Return the processes that the first thread of one has started."""
    with suppress(OSError):
        path = Path(f"/proc/{pid}/task/{pid}/children")
        return [*map(int, path.read_text().split())]
    return []


@contextmanager
def stopped_resize(parent: int) -> Iterator[int]:
    """Stop resize2fs as soon as a process has started it, for the body."""
    pid = stop_resize(parent)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def stop_resize(parent: int) -> int:
    """Stop resize2fs as soon as a process has started it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # Of the caller, the sandbox, and its first process.
        found = [parent]
        for _ in range(3):
            found = [each for pid in found for each in first_children(pid)]
        for pid in found:
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "resize2fs\n":
                    os.kill(pid, signal.SIGSTOP)
                    return pid
    raise AssertionError("resize2fs was not seen")


def check_confined(proc: Path) -> None:
    """Look that a process has no rights, and one disk."""
    status = dict(
        line.split(":\t", 1)
        for line in (proc / "status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["2013265920"] * 4
    assert status["Gid"].split() == ["2013331456"] * 4
    assert status["Groups"].split() == []
    for kind in ("Prm", "Eff", "Amb"):
        assert int(status[f"Cap{kind}"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    allowed = {"bin", "dev", "lib", "lib32", "lib64", "libx32", "proc"}
    allowed |= {"sbin", "usr"}
    assert {*os.listdir(proc / "root")} <= allowed
    assert os.listdir(proc / "root/dev") == ["disk"]
    for line in (proc / "mounts").read_text().splitlines():
        assert {"ro", "nosuid"} <= {*line.split()[3].split(",")}
    for kind in ("net", "pid", "ipc", "mnt"):
        own = os.readlink(f"/proc/self/ns/{kind}")
        assert os.readlink(proc / "ns" / kind) != own


def test_who_reads_an_ext4(reachable_path: Path) -> None:
    """A user without rights, with nothing of the host's but programs."""
    image = make_slow(reachable_path / "image")
    with subprocess.Popen(grown(image)) as process:
        with stopped_resize(process.pid) as pid:
            check_confined(Path(f"/proc/{pid}"))
        assert process.wait(PATIENCE) == 0
    guest.wait_for_no_disk(reachable_path)
    check("ext4", image)


def test_growth_goes_on_when_the_caller_is_killed(
    reachable_path: Path,
) -> None:
    """Half a resize2fs can be the end of what is in an image.

    Its device is kept from others from before it has opened that.
    """
    image = make_slow(reachable_path / "image")
    with (
        subprocess.Popen(grown(image)) as process,
        stopped_resize(process.pid),
    ):
        process.kill()
        process.wait()
        with pytest.raises(RootfsError, match="is in use already"):
            size_of(image, grow=True)
    guest.wait_for_no_disk(reachable_path)
    check("ext4", image)
    assert size_of(image, grow=False) > 54 << 30
