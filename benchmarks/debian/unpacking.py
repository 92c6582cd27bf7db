# SPDX-License-Identifier: Apache-2.0
"""Unpacking with a shift, beside plain GNU tar of the same archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.child import id_maps
from benchmarks.debian.image import EXTRACT, Image
from benchmarks.measure import (
    Result,
    Say,
    clock,
    clock_command,
    take_turns,
)
from benchmarks.trees import ENTRY
from lxc_userns import rootfs

_, _HOST, _ = ENTRY


def measure(
    image: Image, directory: Path, rounds: int, say: Say
) -> list[Result]:
    """Let tar and us unpack the same archive, by turns."""
    takers = {
        "tar --extract": partial(_tar, image.archive),
        "rootfs.unpack, shifted": partial(_ours, image.archive, True),
        "rootfs.unpack, unshifted": partial(_ours, image.archive, False),
    }
    # Never to the same place, and nothing is removed meanwhile: making files
    # can be slow for minutes after others were deleted.
    targets = (directory / f"unpacked-{number}" for number in count())
    turns = {
        name: partial(_to_next, targets, taker)
        for name, taker in takers.items()
    }
    # The archive has to be in the page cache, and all modules loaded.
    for turn in turns.values():
        turn()
    return take_turns(turns, rounds, "unpacking", say)


def _to_next(
    targets: Iterator[Path], unpack: Callable[[Path], float]
) -> float:
    return unpack(next(targets))


def _tar(archive: Path, target: Path) -> float:
    target.mkdir(mode=0o755)
    argv = [*EXTRACT, "--file", str(archive), "-C", str(target)]
    return clock_command(argv)


def _ours(archive: Path, shifted: bool, target: Path) -> float:
    seconds = clock(
        partial(rootfs.unpack, archive, target, id_maps(), shifted=shifted)
    )
    owner = (target / "etc/passwd").stat().st_uid
    if owner != (_HOST if shifted else 0):
        raise RuntimeError(f"{target}/etc/passwd belongs to {owner}")
    return seconds
