# SPDX-License-Identifier: Apache-2.0
"""Disk image of the guest, kept in a cache."""

import dataclasses
import subprocess
import tempfile
from pathlib import Path

from platforms.cache import APART, Needs, ensure_made, recipe_key
from platforms.checkout import write_archive
from platforms.errors import PlatformError

HERE = Path(__file__).parent
TOP = HERE.parents[1]
#: Files that decide, beside the project's dependencies, what is in an image.
RECIPE = [
    HERE / "make-image",
    HERE / "guest/in-vm-job",
    HERE / "guest/in-vm.service",
    HERE / "guest/timeouts.conf",
    TOP / "etc/systemd/keyring.conf",
    TOP / "tests/functional/images.py",
]
#: Exit status of ``make-image`` when debootstrap failed, and its log.
UNAVAILABLE, LOG = 3, "debootstrap.log"
#: The tree and the image of it lie beside each other for a while.
NEEDS = Needs("disk image", space=8 << 30)


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """Image that a guest is started from: a directory that does not change."""

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
        """Initial RAM disk, which finds the disk."""
        return self.directory / "initrd"


def ensure_image(cache: Path, checkout: Path) -> Image:
    """Return the image that serves a checkout; make it if it is not there.

    :raises PlatformError: if it cannot be made.
    """

    def make(directory: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=directory) as archive:
            write_archive(checkout, archive)
            run_make_image(directory, archive.name)

    image = Image(cache / recipe_key(checkout, RECIPE))
    ensure_made(image.directory, NEEDS, make)
    return image


def run_make_image(directory: Path, archive: str) -> None:
    """Run the script that does the work, in namespaces that end with it."""
    argv = [*APART, str(HERE / "make-image"), str(directory), archive]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL)
    check_status(result.returncode, directory)


def check_status(status: int, directory: Path) -> None:
    """Refuse to go on without an image.

    :param status: exit status of ``make-image``.
    :raises PlatformError: if it failed, with the reason.
    """
    if status == UNAVAILABLE:
        reason = (directory / LOG).read_text().splitlines()[-1]
        raise PlatformError(
            f"Debian 13 cannot be had: {reason}; "
            "see that a mirror of it can be reached"
        )
    if status:
        raise PlatformError("the disk image could not be made; see above")
