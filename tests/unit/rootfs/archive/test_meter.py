# SPDX-License-Identifier: Apache-2.0
"""The meter of an archive, on filesystems of any kind."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from lxc_userns.rootfs.archive import meter
from lxc_userns.rootfs.archive.meter import (
    BYTES,
    FREE_BYTES,
    FREE_INODES,
    INODES,
)

GIB = 1 << 30


@dataclass
class Disk:
    """A filesystem as fstatvfs() tells of it, in blocks of 1 MiB."""

    blocks: int = 100 << 10
    free: int = 50 << 10
    files: int = 1_000_000
    free_files: int = 500_000
    tree: int = 0
    unsynced: int = 0
    stopped: list[str] = field(default_factory=list)

    def status(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(
            f_frsize=1 << 20,
            f_blocks=self.blocks,
            f_bfree=self.free,
            f_bavail=self.free,
            f_files=self.files,
            f_favail=self.free_files,
        )

    def sync(self, _: int) -> None:
        self.free -= self.unsynced
        self.unsynced = 0

    def measured(self, _: Callable[[], int]) -> int:
        self.stopped.append("measured")
        return self.tree

    def meter(self, max_bytes: int = GIB) -> meter.Meter:
        def stop() -> None:
            self.stopped.append("killed")

        limits = {BYTES: max_bytes, INODES: 10}
        return meter.Meter(0, limits, stop, self.measured, self.sync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(os, "fstatvfs", made.status)
    return made


@pytest.mark.parametrize(("kind", "most"), [(BYTES, GIB), (INODES, 10)])
def test_as_much_as_allowed(disk: Disk, kind: str, most: int) -> None:
    found = disk.meter()
    found.add(kind, most - 1)
    found.add(kind, 1)
    assert (found.exceeded, disk.stopped) == (None, [])
    found.add(kind, 1)
    found.add(kind, 1)
    assert (found.exceeded, disk.stopped) == (kind, ["killed"])


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"free": 1025}, None),
        ({"free": 1023}, FREE_BYTES),
        ({"blocks": 1000, "free": 51}, None),
        ({"blocks": 1000, "free": 49}, FREE_BYTES),
        ({"blocks": 0, "free": 0}, None),
        ({"free_files": 10_000}, None),
        ({"free_files": 9_999}, FREE_INODES),
        ({"files": 0, "free_files": 0}, None),
    ],
)
def test_what_runs_short(
    disk: Disk, status: dict[str, int], expected: str | None
) -> None:
    for name, value in status.items():
        setattr(disk, name, value)
    assert meter.find_shortage(0, 0) == expected
    found = disk.meter()
    found.add(INODES, 1)
    assert found.exceeded == expected


def test_room_for_what_is_to_be_written(disk: Disk) -> None:
    assert meter.find_shortage(0, 49 * GIB) is None
    assert meter.find_shortage(0, 49 * GIB + 1) == FREE_BYTES


def test_space_that_is_used_only_when_it_is_written(disk: Disk) -> None:
    """btrfs has it so."""
    found = disk.meter(100 * GIB)
    for _ in range(60):
        disk.unsynced += 1024
        found.add(BYTES, GIB)
    assert (found.exceeded, disk.stopped) == (FREE_BYTES, ["killed"])
    assert disk.free == 0


def test_a_tree_is_measured_when_space_is_missing(disk: Disk) -> None:
    found = disk.meter()
    disk.free -= 1024
    found.add(INODES, 1)
    assert disk.stopped == []
    # Others have written, and this tree is half as large as it may be.
    disk.free -= 1024
    disk.tree = GIB // 2
    found.add(INODES, 1)
    assert (found.exceeded, disk.stopped) == (None, ["measured"])
    disk.free -= 512
    found.add(INODES, 1)
    assert disk.stopped == ["measured"]
    disk.free -= 1
    disk.tree = GIB + 1
    found.add(INODES, 1)
    assert found.exceeded == BYTES
    assert disk.stopped == ["measured", "measured", "killed"]


def test_what_a_tree_takes(tmp_path: Path) -> None:
    place = os.getcwd()
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(bytes(100_000))
    os.link(tmp_path / "a/b/file", tmp_path / "again")
    (tmp_path / "link").symlink_to("/usr")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        found = meter.Meter(
            fd, {BYTES: 1, INODES: 1}, lambda: None, lambda look: look()
        )
        names = ("a", "a/b", "a/b/file", "link")
        blocks = [(tmp_path / name).lstat().st_blocks for name in names]
        assert found._measure() == sum(blocks) * 512
    finally:
        os.chdir(place)
        os.close(fd)
