# SPDX-License-Identifier: Apache-2.0
"""A control group of the run's own in each hierarchy of the host."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

REMOVED_WITHIN = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Cgroup:
    """The control group of a run in one hierarchy.

    :param controllers: as ``/proc/self/cgroup`` names the hierarchy: ``""``
        for version 2.
    :param directory: the group; the run makes it and removes it.
    :param mount: where the hierarchy is mounted.
    """

    controllers: str
    directory: str
    mount: str

    def make(self) -> None:
        """Make the group ready to take processes."""
        group = Path(self.directory)
        group.mkdir()
        if "cpuset" in self.controllers.split(","):
            # A new version 1 cpuset is empty, and takes no process.
            for name in ("cpuset.cpus", "cpuset.mems"):
                (group / name).write_text((group.parent / name).read_text())

    def join(self) -> None:
        """Move the calling process into the group."""
        Path(self.directory, "cgroup.procs").write_text("0")

    def kill(self) -> None:
        """Kill every process of the group and of those below it."""
        for processes in Path(self.directory).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                for pid in map(int, processes.read_text().split()):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Remove what is empty, from below; tell if all is gone."""
        for path, _, _ in os.walk(self.directory, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
        return not Path(self.directory).exists()

    def remount(self) -> None:
        """Show of the hierarchy what is below our cgroup namespace's root."""
        kind = ["cgroup", "-o", self.controllers]
        if not self.controllers:
            kind = ["cgroup2"]
        unmount(self.mount)
        # mount(8) would make /run/mount, which is the host's.
        argv = ["mount", "--no-mtab", "-t", *kind, "cgroup", self.mount]
        subprocess.run(argv, check=True)
        if not self.controllers:
            self.delegate()

    def delegate(self) -> None:
        """Give the controllers to the groups below.

        A version 2 group that does so may have no process of its own.
        """
        leaf = Path(self.mount, "init")
        leaf.mkdir()
        (leaf / "cgroup.procs").write_text("0")
        for name in Path(self.mount, "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                Path(self.mount, "cgroup.subtree_control").write_text(
                    f"+{name}"
                )


def thaw(directory: str) -> None:
    """Let the frozen run: the version 1 freezer holds SIGKILL back."""
    for state in Path(directory).rglob("freezer.state"):
        with contextlib.suppress(OSError):
            state.write_text("THAWED")


def remove_all(cgroups: list[Cgroup]) -> bool:
    """Kill all in the groups and remove them; tell if they are gone."""
    give_up = time.monotonic() + REMOVED_WITHIN
    while time.monotonic() < give_up:
        # In every hierarchy first: one alone keeps a process from dying.
        for cgroup in cgroups:
            thaw(cgroup.directory)
            cgroup.kill()
        if all(cgroup.remove() for cgroup in cgroups):
            return True
        time.sleep(0.01)
    return False


def plan_cgroups(name: str) -> list[Cgroup]:
    """Find the place for a group in each hierarchy that libvirt will use.

    That is every one of version 1, or version 2 where there is none.

    :param name: the name of all the groups.
    """
    own = dict(memberships())
    mounts = dict(hierarchies())
    if not any(mounts):
        # A version 2 group that has processes has no controllers to give:
        # only at the top it is sure that there are some.
        return [
            Cgroup("", f"{mount}/{name}", mount)
            for _, mount in mounts.values()
        ]
    # In version 1 a group below our own keeps the limits that we are under.
    return [
        Cgroup(controllers, f"{place(root, mount, group)}/{name}", mount)
        for controllers, (root, mount) in mounts.items()
        if (group := own.get(controllers)) and controllers
    ]


def place(root: str, mount: str, group: str) -> str:
    """Find a group's directory below a mount that shows ``root`` only."""
    relative = os.path.relpath(group, root)
    if relative.startswith(".."):
        return mount
    return os.path.normpath(f"{mount}/{relative}")


def memberships() -> Iterator[tuple[str, str]]:
    """List the controllers of each hierarchy and our group in it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        yield controllers, group


def hierarchies() -> Iterator[tuple[str, tuple[str, str]]]:
    """List the controllers of each mounted hierarchy, its root and mount."""
    known = [controllers for controllers, _ in memberships() if controllers]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where, _, what = line.partition(" - ")
        root, mount = where.split()[3:5]
        kind, _, options = what.split()
        if kind == "cgroup2":
            yield "", (root, mount)
        elif kind == "cgroup":
            for controllers in known:
                if set(controllers.split(",")) <= set(options.split(",")):
                    yield controllers, (root, mount)


def unmount(mount: str) -> None:
    """Unmount a hierarchy in our own mount namespace."""
    subprocess.run(["umount", "--no-mtab", mount], check=True)


def remount_all(cgroups: list[Cgroup]) -> None:
    """Make the groups the whole of what is seen below ``/sys/fs/cgroup``."""
    for cgroup in cgroups:
        cgroup.remount()
    if cgroups[0].controllers:
        # Beside version 1, libvirt 9 takes version 2 for one more hierarchy
        # that its containers must have, and cannot make its mount point.
        for controllers, (_, mount) in list(hierarchies()):
            if not controllers:
                unmount(mount)
