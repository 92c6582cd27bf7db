# SPDX-License-Identifier: Apache-2.0
"""Traces of servers on the host."""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

import libvirt

from lxc_userns.leases.database import LeaseStore

PROC = Path("/proc")
# What Nova keeps for all servers together.
KEPT = {"_base", "compute_nodes", "locks", "snapshots"}


@dataclass(frozen=True)
class Leftovers:
    """All of it; false if there is nothing.

    :param mounts: mount points below the test's directory.
    :param loops: loop devices of files below the test's directory.
    :param processes: those of containers, and of who controls them.
    :param directories: those of instances.
    :param leases: names of instances that hold one.
    """

    domains: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    leases: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    @classmethod
    def look(
        cls, connection: libvirt.virConnect, directory: Path
    ) -> "Leftovers":
        """Look for what is there now.

        :param directory: the test's.
        """
        return cls(
            tuple(each.name() for each in connection.listAllDomains()),
            tuple(mounts(directory)),
            tuple(loops(directory)),
            tuple(processes()),
            tuple(
                each.name
                for each in sorted((directory / "instances").glob("*"))
                if each.name not in KEPT
            ),
            tuple(leases(directory)),
        )

    def remove(self, connection: libvirt.virConnect) -> None:
        """Remove it, but for directories: those go with the test's."""
        for domain in connection.listAllDomains():
            for act in (domain.destroy, domain.undefine):
                with contextlib.suppress(libvirt.libvirtError):
                    act()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.split()[0]), signal.SIGKILL)
        self.unmount()

    def unmount(self) -> None:
        """Take off the mounts, and what loop devices they leave."""
        for point in reversed(self.mounts):
            subprocess.run(["umount", "--lazy", point], check=True)
        for device in self.loops:
            # It may have gone with its last mount.
            subprocess.run(
                ["losetup", "--detach", device.split()[0]],
                stderr=subprocess.DEVNULL,
            )


def mounts(directory: Path) -> list[str]:
    """List mount points below a directory, in the order of mounting."""
    lines = (PROC / "self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [each for each in points if Path(each).is_relative_to(directory)]


def loops(directory: Path) -> list[str]:
    """List loop devices of files below a directory."""
    found = []
    for path in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        with contextlib.suppress(OSError):
            backing = path.read_text().strip()
            if Path(backing).is_relative_to(directory):
                found.append(f"/dev/{path.parts[3]} {backing}")
    return found


def processes() -> list[str]:
    """List the processes of containers and of who controls them.

    ``tools/private-libvirtd`` has a PID namespace of its own: there are no
    others.
    """
    found = []
    own = (PROC / "self/ns/pid").readlink()
    for directory in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (directory / "comm").read_text().strip()
            if (
                name == "libvirt_lxc"
                or (directory / "ns/pid").readlink() != own
            ):
                found.append(f"{directory.name} {name}")
    return sorted(found)


def leases(directory: Path) -> list[str]:
    """List who holds a lease of those that the library gave."""
    store = LeaseStore(str(directory / "lxc-userns"))
    if not store.exists:
        return []
    with store.read() as held:
        return [lease.instance for lease in held.all()]
