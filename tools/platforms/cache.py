# SPDX-License-Identifier: Apache-2.0
"""Cache of disks that are made once for a set of dependencies."""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from platforms.errors import PlatformError

#: Groups of dependencies that a disk has in its virtual environment.
GROUPS = ["test", "docs"]
#: Programs that make a disk, and their packages.
PROGRAMS = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs"}
#: Runs what makes a disk, in namespaces that take its processes and mounts
#: along; they end with it, and it with this process, SIGKILL or not.
APART = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid"),
    *("--fork", "--kill-child"),
]
#: Seconds after which a disk that is not used makes room.
KEPT = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of making a disk.

    :param what: name of what is made, for messages.
    :param space: free bytes.
    :param programs: programs, and the package that has each.
    """

    what: str
    space: int
    programs: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: PROGRAMS
    )


def ensure_made(
    directory: Path, needs: Needs, make: Callable[[Path], None]
) -> None:
    """Make a directory of the cache if it is not there, whole or not at all.

    :param make: fills an empty directory.
    :raises PlatformError: if it cannot be made.
    """
    if not mark_used(directory):
        check_host(directory.parent, needs)
        with locked(directory.parent):
            # Perhaps another run has made it while this one waited.
            if not mark_used(directory):
                remove_unused(directory.parent)
                make_whole(directory, make)


def mark_used(directory: Path) -> bool:
    """Keep a directory from being removed; tell if it is there.

    In this order, lest another run removes what was found.
    """
    with suppress(OSError):
        os.utime(directory)
    return directory.exists()


def recipe_key(
    checkout: Path, recipe: Sequence[Path], choice: str = ""
) -> str:
    """Name the content of a disk by all that decides upon it.

    :param recipe: files that do, beside the project's dependencies.
    :param choice: what else does.
    """
    table = tomllib.loads((checkout / "pyproject.toml").read_text())
    table["project"].pop("optional-dependencies", None)
    groups = (table["dependency-groups"][group] for group in GROUPS)
    installed = [table["project"], *groups]
    digest = hashlib.sha256(json.dumps([choice, *installed]).encode())
    tools = checkout / "tools"
    for path in (
        *recipe,
        tools / "get-ansible-collection",
        tools / "install-system-packages",
        tools / "make-venv",
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def check_host(cache: Path, needs: Needs) -> None:
    """Refuse what cannot work, before anything is made.

    :raises PlatformError: naming the first thing that is missing.
    """
    if os.geteuid() != 0:
        raise PlatformError(
            f"making the {needs.what} needs root; run as root once"
        )
    for program, package in needs.programs.items():
        if not shutil.which(program):
            raise PlatformError(
                f"{program} is not installed; install the package {package}"
            )
    there = next(path for path in (cache, *cache.parents) if path.is_dir())
    check_space(there, needs.what, needs.space)
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)


def check_space(directory: Path, what: str, space: int) -> None:
    """Refuse a directory whose filesystem is too full.

    :raises PlatformError: naming what is free and what is needed, in MiB.
    """
    free = shutil.disk_usage(directory).free
    if free < space:
        raise PlatformError(
            f"{directory}: {free >> 20} MiB free, the {what} needs "
            f"{space >> 20}; make room or choose another --cache"
        )


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Make disks one at a time."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_unused(cache: Path) -> None:
    """Remove what broken runs left, and disks that were not used for long."""
    for path in cache.iterdir():
        if path.is_dir():
            broken = path.suffix == ".new"
            if broken or path.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(path)


def make_whole(directory: Path, make: Callable[[Path], None]) -> None:
    """Make a directory under another name until it is complete."""
    new = directory.with_suffix(".new")
    new.mkdir(mode=0o755)
    try:
        make(new)
        new.rename(directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
