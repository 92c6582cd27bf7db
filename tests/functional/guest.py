# SPDX-License-Identifier: Apache-2.0
"""Processes in a container, or in a user namespace as a container has it."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.rootfs.views import idmapped
from tests.waiting import wait_for

Completed = subprocess.CompletedProcess[str]

#: Busybox is in /bin, where a caller of today need not look.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
BASE, OTHER_BASE = 1_900_000_000, 1_950_000_000
COUNT = 65536
#: Not the same for both kinds, that they are not mixed up.
GID_OFFSET = 1_000_000

#: A user of the host who is no one special. What setpriv itself executes it
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


def complete(
    *argv: str | Path, pass_fds: Sequence[int] = (), cwd: Path | None = None
) -> Completed:
    """Run a program to its end, whatever that is."""
    return subprocess.run(
        [*map(str, argv)],
        pass_fds=pass_fds,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | ENVIRONMENT,
    )


def call(*argv: str | Path) -> str:
    """Return the output of a program of the host that goes well."""
    done = complete(*argv)
    assert done.returncode == 0, (argv, done)
    return done.stdout.strip()


def enter(pid: object, *which: str, user: int = 0) -> list[str]:
    """Return a command line that does the rest of it in a container.

    What runs there may do more than the container's own processes: it has
    all capabilities of the user namespace until it executes a program as
    another user than root.

    :param pid: a process of the container.
    :param which: what to enter, as options of nsenter; none: all.
    :param user: user and group to be, of the container's.
    """
    kinds = which or ("--all", "--root", "--wd=/")
    users = f"--setuid={user}", f"--setgid={user}"
    return ["nsenter", f"--target={pid}", *kinds, *users]


def execute(pid: object, *command: str, user: int = 0) -> Completed:
    """Run a program of a container in it."""
    return complete(*enter(pid, user=user), *command)


def inside(pid: object, script: str, user: int = 0) -> Completed:
    """Run a shell script in a container."""
    return execute(pid, "/bin/sh", "-c", script, user=user)


def ask(pid: object, script: str, user: int = 0) -> str:
    """Return what a shell script that goes well prints in a container."""
    done = inside(pid, script, user)
    assert done.returncode == 0, (script, done)
    return done.stdout.strip()


def run(
    maps: IdMaps, *argv: str | Path, user: int = 0, cwd: Path | None = None
) -> Completed:
    """Run a program of the host as a user of a container."""
    with idmapped.user_namespace(maps) as namespace:
        return complete(
            *("nsenter", f"--user=/proc/self/fd/{namespace}"),
            *(f"--setuid={user}", f"--setgid={user}", *argv),
            pass_fds=[namespace],
            cwd=cwd,
        )


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


def disks() -> Iterator[tuple[str, str]]:
    """Yield the loop devices of this machine, and the file of each."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        # Those of other tests come and go meanwhile.
        with suppress(OSError):
            yield path.parents[1].name, path.read_text().removesuffix("\n")


def loop_devices(directory: Path) -> list[str]:
    """Files in a directory that are disks."""
    files = (file for _, file in disks())
    return [file for file in files if Path(file).is_relative_to(directory)]


def wait_for_no_disk(directory: Path) -> None:
    """Wait until no file in a directory is a disk any more."""
    wait_for(lambda: not loop_devices(directory))
