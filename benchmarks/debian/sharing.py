# SPDX-License-Identifier: Apache-2.0
"""Many containers from one image: a view for each, or a copy for each."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.child import id_maps
from benchmarks.debian.image import Image
from benchmarks.measure import Say, clock, clock_command
from benchmarks.scratch import Scratch, disk_bytes, used_bytes
from lxc_userns import rootfs


@dataclass(frozen=True, slots=True)
class Sharing:
    """What it takes to have one more container.

    :param views: seconds for each overlay view, in the order they were made;
        all stay mounted.
    :param views_disk: bytes that the state directories of all have on disk.
    :param views_used: bytes that the filesystem has less when all are there.
    :param copies: seconds for each copy of the image.
    :param shifts: seconds for shifting each copy.
    :param copies_disk: bytes that all copies have on disk.
    :param copies_used: bytes that the filesystem has less.
    """

    views: tuple[float, ...]
    views_disk: int
    views_used: int
    copies: tuple[float, ...]
    shifts: tuple[float, ...]
    copies_disk: int
    copies_used: int

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Sharing:
        """What :meth:`to_json` gave."""
        lists = ("views", "copies", "shifts")
        return cls(**{**plain, **{key: tuple(plain[key]) for key in lists}})

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self)


def measure(
    image: Image, scratch: Scratch, views: int, copies: int, say: Say
) -> Sharing:
    """Make so many views, then so many copies."""
    before = used_bytes(scratch.path)
    states, points, seconds = _make_views(image, scratch, views, say)
    views_used = used_bytes(scratch.path) - before
    views_disk = disk_bytes(*states)
    for point in points:
        rootfs.unmount(point)
    before = used_bytes(scratch.path)
    trees = [scratch.closed / f"copy-{number}" for number in range(copies)]
    pairs = [_copy(image, tree, say) for tree in trees]
    return Sharing(
        seconds,
        views_disk,
        views_used,
        tuple(copied for copied, _ in pairs),
        tuple(shifted for _, shifted in pairs),
        disk_bytes(*trees),
        used_bytes(scratch.path) - before,
    )


def _make_views(
    image: Image, scratch: Scratch, count: int, say: Say
) -> tuple[list[Path], list[Path], tuple[float, ...]]:
    states, points, seconds = [], [], []
    parent = scratch.closed / "states"
    parent.mkdir(mode=0o700)
    maps = id_maps()
    for number in range(count):
        say(f"view {number + 1} of {count}")
        state, point = parent / str(number), scratch.run_path(f"view{number}")
        point.mkdir()
        call = partial(rootfs.mount_overlay, image.tree, state, point, maps)
        seconds.append(clock(call))
        states.append(state)
        points.append(point)
    return states, points, tuple(seconds)


def _copy(image: Image, tree: Path, say: Say) -> tuple[float, float]:
    say(f"copying the image to {tree.name}")
    subprocess.run(["sync"], check=True)
    # A filesystem that could share the blocks is not to do it.
    copy = ["cp", "-a", "--reflink=never", str(image.tree), str(tree)]
    copied = clock_command(copy)
    return copied, clock(partial(rootfs.shift, tree, id_maps()))
