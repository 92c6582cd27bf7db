# SPDX-License-Identifier: Apache-2.0
"""Root filesystem of a release, kept in a cache as a disk."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from platforms.cache import APART, Needs, ensure_made, recipe_key
from platforms.checkout import write_archive
from platforms.errors import PlatformError

from in_release.releases import (
    RELEASES,
    WITH_ALL_KEYS,
    Release,
)
from in_release.settings import find_mirror, make_environment, write_settings

HERE = Path(__file__).parent
#: Files that decide, beside the project's dependencies, what is in a root.
RECIPE = [HERE / "make-root"]
NEEDS = Needs("root of a release", space=6 << 30)
#: The name of the disk in its directory of the cache.
DISK = "disk"
#: Exit status of ``make-root`` when debootstrap failed.
UNAVAILABLE = 3


def ensure_root(
    cache: Path,
    checkout: Path,
    release: Release,
    with_keys: Release = RELEASES[WITH_ALL_KEYS],
    needs: Needs = NEEDS,
    make_root: Callable[[Path, Path, Path, Release, Path], None] | None = None,
) -> Path:
    """Return the disk of a release; make it if it is not there.

    :param with_keys: the release that has the keys of all.
    :param needs: what is needed for it.
    :param make_root: makes the disk, if not :func:`run_make_root`.
    :raises PlatformError: if it cannot be made.
    """
    directory = find_directory(cache, checkout, release)
    keyring = Path(release.distribution.keyring)
    keys: Path | None = None
    if not directory.exists() and not keyring.exists():
        if release.name == with_keys.name:
            raise PlatformError(
                f"{keyring} is not installed; "
                "install the package debian-archive-keyring"
            )
        # First, for one cannot be made while another is.
        keys = ensure_root(
            cache, checkout, with_keys, with_keys, needs, make_root
        )

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory(dir=directory) as name:
            scratch = Path(name)
            ring = copy_keyring(keys, keyring, scratch) if keys else keyring
            disk = directory / DISK
            (make_root or run_make_root)(
                disk, scratch, checkout, release, ring
            )

    ensure_made(directory, needs, make)
    return directory / DISK


def find_directory(cache: Path, checkout: Path, release: Release) -> Path:
    """Name the directory of a root, which may not be there."""
    key = recipe_key(checkout, RECIPE, repr(release))
    return cache / f"{release.name}-{key}"


def copy_keyring(disk: Path, keyring: Path, scratch: Path) -> Path:
    """Copy a keyring from another release's root."""
    copy = scratch / keyring.name
    argv = ["debugfs", "-R", f"dump {keyring} {copy}", str(disk)]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return copy


def run_make_root(
    disk: Path, scratch: Path, checkout: Path, release: Release, keyring: Path
) -> None:
    """Run the script that does the work, in namespaces that end with it."""
    settings = scratch / "settings"
    write_settings(settings)
    with (scratch / "checkout.tar").open("wb") as archive:
        write_archive(checkout, archive)
    argv = [*APART, str(HERE / "make-root"), str(disk), str(scratch)]
    argv += [release.name, release.python]
    argv += [release.distribution.components, str(keyring)]
    argv += [find_mirror(release.distribution), release.distribution.script]
    argv += release.packages
    environment = make_environment(os.environ)
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, env=environment)
    check_status(result.returncode, scratch, release)


def check_status(status: int, scratch: Path, release: Release) -> None:
    """Refuse to go on without a root.

    :param status: exit status of ``make-root``.
    :param scratch: has its ``log``.
    :raises PlatformError: if it failed, with the reason.
    """
    if status == UNAVAILABLE:
        reason = (scratch / "log").read_text().splitlines()[-1]
        raise PlatformError(
            f"release {release.name}: cannot be had: {reason}; "
            "see that a mirror of it can be reached"
        )
    if status:
        raise PlatformError(
            f"the root of {release.name} could not be made; see above"
        )
