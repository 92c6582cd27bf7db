# SPDX-License-Identifier: Apache-2.0
"""Processes as a container has them: in a user namespace with ID maps."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.rootfs.views import idmapped

BASE, OTHER_BASE = 1_900_000_000, 1_950_000_000
COUNT = 65536
#: Not the same for both kinds, that they are not mixed up.
GID_OFFSET = 1_000_000

#: A user of the host who is nobody special. What setpriv itself executes it
#: finds with the capabilities of root; what that executes is the user's.
HOST_USER = [
    "setpriv",
    "--reuid=1000",
    "--regid=1000",
    "--clear-groups",
    "env",
]


def id_maps(base: int = BASE) -> IdMaps:
    """ID maps of a container."""
    return IdMaps(
        IdMap.parse(f"0:{base}:{COUNT}"),
        IdMap.parse(f"0:{base + GID_OFFSET}:{COUNT}"),
    )


def call(*argv: str | Path) -> str:
    """Return the output of a program of the host that goes well."""
    done = subprocess.run(
        [*map(str, argv)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (argv, done)
    return done.stdout.strip()


def run(
    maps: IdMaps, *argv: str | Path, user: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Run a program of the host as a user of a container."""
    with idmapped.user_namespace(maps) as namespace:
        return subprocess.run(
            [
                "nsenter", f"--user=/proc/self/fd/{namespace}",
                f"--setuid={user}", f"--setgid={user}", *argv,
            ],
            pass_fds=(namespace,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip


def out(maps: IdMaps, *argv: str | Path, user: int = 0) -> str:
    """Return the output of a program that goes well."""
    done = run(maps, *argv, user=user)
    assert (done.returncode, done.stderr) == (0, ""), (argv, done)
    return done.stdout.strip()


def effective(status: str) -> int:
    """The effective capabilities in the text of a ``/proc/PID/status``."""
    (line,) = [x for x in status.splitlines() if x.startswith("CapEff:")]
    return int(line.split()[1], 16)


@contextmanager
def mounted(
    source: Path, target: Path, maps: IdMaps, state: Path | None = None
) -> Iterator[Path]:
    """Mount a view for a while: an overlay if it has a state directory."""
    target.mkdir(exist_ok=True)
    if state is None:
        rootfs.mount_idmapped(source, target, maps)
    else:
        rootfs.mount_overlay(source, state, target, maps)
    try:
        yield target
    finally:
        rootfs.unmount(target)
    assert os.listdir(target) == []


def mountinfo(point: Path) -> list[list[str]]:
    """The fields of all mounts on a path."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split() for line in lines if line.split()[4] == str(point)]


def loop_devices(directory: Path) -> list[str]:
    """Files in a directory that are disks."""
    backing = [
        path.read_text().removesuffix("\n")
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
    ]
    return [each for each in backing if Path(each).is_relative_to(directory)]
