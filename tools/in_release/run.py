# SPDX-License-Identifier: Apache-2.0
"""Run of a command in a release: what is done outside."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from platforms.cache import check_space
from platforms.checkout import write_archive
from platforms.errors import PlatformError
from private_libvirtd.cgroups import Cgroup, plan_cgroups, remove_all
from private_libvirtd.outside import (
    pass_signals_on,
    run_inside,
    start_watcher,
)

from in_release.plan import ReleasePlan

PROGRAMS = ["cp", "mount", "pivot_root", "tar", "umount", "unshare"]
#: Bytes: a copy of the disk, and what tests write to it.
SPACE = 6 << 30


def check_host() -> list[Cgroup]:
    """Refuse early what cannot work; plan the control groups of the run.

    :raises PlatformError: naming the first thing that is missing.
    """
    if os.geteuid() != 0:
        raise PlatformError("not root; run as root")
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise PlatformError(
            f"{missing[0]} is not installed; "
            "install the packages mount, tar and util-linux"
        )
    cgroups = plan_cgroups(f"in-release.{os.getpid()}")
    if not cgroups:
        raise PlatformError(
            "no hierarchy of control groups is mounted; mount one"
        )
    return cgroups


def run_command(
    disk: Path,
    checkout: Path,
    cgroups: list[Cgroup],
    command: list[str],
    space: int = SPACE,
) -> int:
    """Run a command in a copy of a release's root, with a checkout.

    :param space: bytes that it may need.
    :returns: the command's exit status.
    :raises PlatformError: if something is left of the run.
    """
    cache = disk.parents[1]
    check_space(cache, "copy of the root", space)
    # Made when the watcher is there that removes it.
    directory = cache / f"run-{secrets.token_hex(8)}"

    def clean_up() -> bool:
        # A mount below it, in a namespace that has ended, goes with it.
        gone = remove_all(cgroups)
        shutil.rmtree(directory, ignore_errors=True)
        return gone and not directory.exists()

    reader, writer = os.pipe()
    pass_signals_on(writer)
    watcher = start_watcher(reader, writer, clean_up)
    try:
        directory.mkdir(mode=0o700)
        copy_to(directory, disk, checkout)
        for cgroup in cgroups:
            cgroup.make()
        return run_inside(
            ReleasePlan(reader, cgroups, command, str(directory))
        )
    finally:
        os.close(writer)
        _, left = os.waitpid(watcher, 0)
        if left:
            raise PlatformError(
                f"{directory} or {cgroups[0].directory}: cannot be removed"
            )


def copy_to(directory: Path, disk: Path, checkout: Path) -> None:
    """Copy a disk to a directory, with an archive of a checkout."""
    (directory / "root").mkdir()
    with (directory / "checkout.tar").open("wb") as archive:
        write_archive(checkout, archive)
    argv = ["cp", "--reflink=auto", str(disk), str(directory / "disk")]
    subprocess.run(argv, check=True)
