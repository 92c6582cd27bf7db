# SPDX-License-Identifier: Apache-2.0
"""Who uses host IDs on a host now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from lxc_userns.exceptions import LibvirtError
from lxc_userns.guest import Guests
from lxc_userns.hostids import Holder
from lxc_userns.idmap import Kind
from lxc_userns.linux.process import Process, with_other_maps
from lxc_userns.rootfs.tree import printable

_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Occupant:
    """A process with other ID maps than ours.

    :param pid: its process ID.
    :param kind: of which kind its IDs are.
    :param ids: host IDs that it has.
    """

    pid: int
    kind: Kind
    ids: range

    def holder(self, guests: Guests) -> Holder:
        """The same with a name, if that can still be found out.

        :param guests: how to reach libvirt, which need not be there.
        """
        shown = f"({self.ids.start}:{len(self.ids)})"
        name = f"the running process {self.pid}"
        with suppress(ProcessLookupError), Process(self.pid) as process:
            name = _find_container(process, guests) or _describe(process)
        return Holder(f"{name} {shown}", self.ids)


def running() -> Iterator[Occupant]:
    """What runs in a user namespace, and with which host IDs.

    The kernel is asked, not libvirt alone, so that containers of other
    runtimes count as well.
    """
    for process in with_other_maps():
        with suppress(ProcessLookupError):
            pid = int(process.pid)
            for _, start, count in process.uid_map:
                yield Occupant(pid, "uid", range(start, start + count))
            for _, start, count in process.gid_map:
                yield Occupant(pid, "gid", range(start, start + count))


def _find_container(process: Process, guests: Guests) -> str | None:
    parent = process.parent
    with suppress(LibvirtError):
        for guest in guests.list():
            if guest.controller == parent:
                return f"the running container {guest.name}"
    return None


def _describe(process: Process) -> str:
    # A process may call itself what it likes.
    command = printable(process.command)[:_LONGEST]
    return f"the running process {process.pid} ({command})"
