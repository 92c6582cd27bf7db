# SPDX-License-Identifier: Apache-2.0
"""Archives that take more than they may: of the disk, and of memory."""

import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.rootfs.archive.tar import SHORTAGES
from tests import system_calls
from tests.functional.conftest import mount_new
from tests.functional.rootfs.archives import (
    COMPRESSORS,
    compress,
    craft,
    hard_link,
    refused,
    unpack,
)
from tests.functional.rootfs.sandbox import tar_with

pytestmark = [
    pytest.mark.needs("mounts"),
    pytest.mark.usefixtures("no_holder_left"),
]

MIB = 1 << 20
#: What is in pipes, and what is written between two looks.
SLACK = 16 * MIB
BOMB = 400 * MIB
LIMITS = UnpackLimits(max_bytes=64 * MIB, max_inodes=2000)


def pipe_zeros(archive: Path, head: bytes, size: int, suffix: str) -> Path:
    """Compress a header and that many zeros."""
    argv = [COMPRESSORS[suffix], "--stdout", "-1"]
    with (
        archive.open("wb") as stream,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=stream) as child,
    ):
        assert child.stdin is not None
        child.stdin.write(head)
        for _ in range(size // MIB):
            child.stdin.write(bytes(MIB))
    assert child.returncode == 0
    return archive


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("zeros")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@contextmanager
def most_used(path: Path) -> Iterator[Callable[[], int]]:
    """The most of a filesystem that was ever used meanwhile, in bytes."""
    ended = threading.Event()
    fd = os.open(path, os.O_RDONLY)

    def used() -> int:
        status = os.fstatvfs(fd)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    found = [used()]

    def look() -> None:
        while not ended.wait(0.001):
            found.append(used())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: max(found) - found[0]
    finally:
        ended.set()
        thread.join()
        os.close(fd)


@pytest.fixture(params=["tmpfs", "ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 512 MiB of its own, in memory."""
    memory, path = tmp_path / "memory", tmp_path / "memory/disk"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", memory], check=True)
    try:
        path.mkdir()
        mount_new(request.param, path)
        yield path
        subprocess.run(["umount", path], check=True, timeout=60)
    finally:
        subprocess.run(["umount", memory], check=True, timeout=60)


@pytest.mark.parametrize("suffix", [*COMPRESSORS])
def test_a_bomb_is_stopped_at_the_limit(
    tmp_path: Path, memory_root: Path, suffix: str
) -> None:
    head = header(tarfile.REGTYPE, BOMB)
    archive = pipe_zeros(tmp_path / f"a.{suffix}", head, BOMB, suffix)
    assert archive.stat().st_size < 4 * MIB
    with most_used(memory_root) as most:
        reason = refused(archive, memory_root / "out", limits=LIMITS)
        assert most() < LIMITS.max_bytes + SLACK
    assert reason == (
        "unpacks to more than 64 MiB; raise [lxc_userns] unpack_max_bytes if "
        "it may"
    )
    assert os.listdir(memory_root) == []


def test_a_plain_archive_is_stopped_too(
    tmp_path: Path, memory_root: Path
) -> None:
    archive = craft(tmp_path / "a.tar", ("file", {"data": bytes(80 * MIB)}))
    with most_used(memory_root) as most:
        reason = refused(archive, memory_root / "out", limits=LIMITS)
        assert most() < LIMITS.max_bytes + SLACK
    assert "unpack_max_bytes" in reason
    more = UnpackLimits(max_bytes=81 * MIB)
    assert unpack(archive, memory_root / "out", limits=more).inodes == 2


def many_files(archive: Path) -> Path:
    """Each takes a block for one byte."""
    members = ((f"f{number}", {"data": b"1"}) for number in range(40_000))
    return craft(archive, *members, tar_format=tarfile.USTAR_FORMAT)


def deep_names(archive: Path) -> Path:
    """Each has a thousand directories made."""
    names = (f"{number}/{'/'.join(['d'] * 1000)}" for number in range(40))
    return craft(archive, *((name, {}) for name in names))


def sparse_file(archive: Path) -> Path:
    """Each byte takes a block."""
    source = archive.with_suffix(".source")
    with source.open("wb") as stream:
        for number in range(40_000):
            stream.seek(number * 8192)
            stream.write(b"1")
    argv = ["tar", "--create", "--sparse", "--hole-detection=raw"]
    argv += ["--file", str(archive)]
    subprocess.run([*argv, "-C", source.parent, source.name], check=True)
    return archive


# Not xfs, which sets aside more than it writes for a while.
@pytest.mark.parametrize("make", [many_files, deep_names, sparse_file])
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_what_a_small_archive_makes_of_a_disk(
    tmp_path: Path, disk: Path, make: Callable[[Path], Path]
) -> None:
    archive = make(tmp_path / "a.tar")
    limits = UnpackLimits(max_bytes=64 * MIB)
    with most_used(disk) as most:
        reason = refused(archive, disk / "out", limits=limits)
        assert most() < limits.max_bytes + SLACK
    assert "unpack_max_bytes" in reason


@pytest.mark.parametrize("make", [many_files, deep_names])
def test_inodes(
    tmp_path: Path, memory_root: Path, make: Callable[[Path], Path]
) -> None:
    before = os.statvfs(memory_root).f_ffree
    archive = make(tmp_path / "a.tar")
    reason = refused(archive, memory_root / "out", limits=LIMITS)
    assert reason == (
        "has more than 2000 files; raise [lxc_userns] unpack_max_inodes if it "
        "may"
    )
    assert os.statvfs(memory_root).f_ffree == before


def test_as_many_as_allowed(tmp_path: Path, memory_root: Path) -> None:
    members = [("a", {"data": b"x"}), ("b", hard_link("a")), ("c/d", {})]
    archive = craft(tmp_path / "a.tar", *members)
    limits = UnpackLimits(max_inodes=4)
    assert unpack(archive, memory_root / "out", limits=limits).inodes == 4
    fewer = UnpackLimits(max_inodes=3)
    reason = refused(archive, memory_root / "other", limits=fewer)
    assert "has more than 3 files" in reason


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_that_takes_memory(tmp_path: Path, kind: bytes) -> None:
    size = 4 << 30
    # What follows is not needed: tar takes the memory first.
    archive = tmp_path / "a.zst"
    pipe_zeros(archive, header(kind, size), MIB, "zst")
    assert archive.stat().st_size < 36_000
    assert refused(archive, tmp_path / "out") == (
        "needs more than 1 GiB of memory to be unpacked; raise [lxc_userns] "
        "unpack_max_memory if it may"
    )


def test_a_decompressor_that_takes_memory(tmp_path: Path) -> None:
    tar = craft(tmp_path / "a.tar", ("a", {"data": os.urandom(100)}))
    archive = tmp_path / "a.tar.xz"
    with archive.open("wb") as stream:
        argv = ["xz", "--stdout", "--lzma2=dict=512MiB", str(tar)]
        subprocess.run(argv, check=True, stdout=stream)
    limits = UnpackLimits(max_memory=256 * MIB)
    reason = refused(archive, tmp_path / "out", limits=limits)
    assert "needs more than 256 MiB of memory" in reason
    assert unpack(archive, tmp_path / "out").inodes == 2


def test_the_least_memory_is_enough(tmp_path: Path) -> None:
    limits = UnpackLimits(max_memory=64 * MIB)
    tar = craft(tmp_path / "a.tar", ("a", {"data": os.urandom(MIB)}))
    for name in ("gz", "xz", "zst"):
        archive = compress(tar, name)
        out = tmp_path / f"out-{name}"
        assert unpack(archive, out, limits=limits).inodes == 2


def test_a_filesystem_is_never_filled(tmp_path: Path, disk: Path) -> None:
    head = header(tarfile.REGTYPE, 2 * BOMB)
    archive = pipe_zeros(tmp_path / "a.zst", head, 2 * BOMB, "zst")
    status = os.statvfs(disk)
    size = status.f_blocks * status.f_frsize
    free = status.f_bavail * status.f_frsize
    with most_used(disk) as most:
        reason = refused(archive, disk / "out")
        assert size // 20 - SLACK < free - most()
    assert reason == SHORTAGES["free bytes"]


def test_there_is_no_room_from_the_beginning(
    tmp_path: Path, disk: Path
) -> None:
    archive = craft(tmp_path / "a.tar", ("a", {}))
    os.truncate(archive, 500 * MIB)
    with system_calls.never("subprocess.Popen"):
        assert refused(archive, disk / "out") == SHORTAGES["free bytes"]


def test_inodes_run_short(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "nr_inodes=4000,mode=755", "tmpfs"]
    subprocess.run([*argv, str(place)], check=True)
    try:
        archive = many_files(tmp_path / "a.tar")
        assert refused(archive, place / "out") == SHORTAGES["free inodes"]
        assert os.listdir(place) == []
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_others_write_does_not_count(tmp_path: Path, disk: Path) -> None:
    """Free space falls by more than may be unpacked, in its course."""
    other = disk / "other"

    def write(_: int) -> None:
        if not other.exists():
            other.write_bytes(bytes(100 * MIB))

    data = os.urandom(MIB)
    members = ((f"f{number}", {"data": data}) for number in range(40))
    archive = craft(tmp_path / "a.tar", *members)
    with tar_with("--checkpoint=320", "--checkpoint-action=sleep=1"):
        report = unpack(archive, disk / "out", limits=LIMITS, progress=write)
    assert report.inodes == 41
    assert other.stat().st_size == 100 * MIB
