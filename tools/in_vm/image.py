# SPDX-License-Identifier: Apache-2.0
"""Disk image of the guest, kept in a cache."""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from in_vm.checkout import write_archive
from in_vm.errors import InVmError

HERE = Path(__file__).parent
#: Files that decide, beside the project's dependencies, what is in an image.
RECIPE = [
    HERE / "make-image",
    HERE / "guest/in-vm-job",
    HERE / "guest/in-vm.service",
    HERE / "guest/timeouts.conf",
]
#: As make-image has them.
EXTRAS = ["test", "docs"]
PROGRAMS = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs"}
#: Bytes: the tree and the image of it lie beside each other for a while.
SPACE = 8 << 30
#: Seconds after which an image that is not used makes room.
KEPT = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """What a guest is started from: a directory that does not change."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The root filesystem, as a raw disk without partitions."""
        return self.directory / "disk"

    @property
    def kernel(self) -> Path:
        """The kernel of the guest."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """What finds the disk."""
        return self.directory / "initrd"


def ensure_image(cache: Path, checkout: Path) -> Image:
    """Return the image that serves a checkout; make it if it is not there.

    :raises InVmError: if it cannot be made.
    """
    image = Image(cache / recipe_key(checkout))
    if not image.directory.exists():
        check_host(cache)
        with locked(cache):
            # Perhaps another run has made it while this one waited.
            if not image.directory.exists():
                remove_unused(cache)
                make_image(image, checkout)
    with suppress(OSError):
        os.utime(image.directory)
    return image


def recipe_key(checkout: Path) -> str:
    """Name the content of an image by all that decides upon it."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    project = project["project"]
    extras = project.pop("optional-dependencies")
    installed = [project, *(extras[extra] for extra in EXTRAS)]
    digest = hashlib.sha256(json.dumps(installed).encode())
    tools = checkout / "tools"
    for path in (
        *RECIPE,
        tools / "install-system-packages",
        tools / "make-venv",
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def check_host(cache: Path) -> None:
    """Refuse what cannot work, before anything is made.

    :raises InVmError: naming the first thing that is missing.
    """
    if os.geteuid() != 0:
        raise InVmError("making the disk image needs root; run as root once")
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            raise InVmError(
                f"{program} is not installed; install the package {package}"
            )
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < SPACE:
        raise InVmError(
            f"{cache}: {free >> 20} MiB free, the disk image needs "
            f"{SPACE >> 20}; make room or choose another --cache"
        )


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Make images one at a time."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_unused(cache: Path) -> None:
    """Remove what broken runs left, and images that nobody used for long."""
    for path in cache.iterdir():
        if path.is_dir():
            broken = path.suffix == ".new"
            if broken or path.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(path)


def make_image(image: Image, checkout: Path) -> None:
    """Make an image, whole or not at all."""
    new = image.directory.with_suffix(".new")
    new.mkdir()
    try:
        with tempfile.NamedTemporaryFile(dir=new) as archive:
            write_archive(checkout, archive)
            run_make_image(new, archive.name)
        new.rename(image.directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def run_make_image(directory: Path, archive: str) -> None:
    """Run the script that does the work, in namespaces that end with it."""
    argv = ["unshare", "--mount", "--propagation", "private", "--pid"]
    argv += ["--fork", "--kill-child", str(HERE / "make-image")]
    argv += [str(directory), archive]
    if subprocess.run(argv, stdin=subprocess.DEVNULL).returncode:
        raise InVmError("the disk image could not be made; see above")
