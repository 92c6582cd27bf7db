# SPDX-License-Identifier: Apache-2.0
"""Who uses host IDs on a host now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from lxc_userns.exceptions import LibvirtError
from lxc_userns.hostids import Holder
from lxc_userns.idmap import Kind
from lxc_userns.inventory import Inventory
from lxc_userns.linux.process import Process, with_other_maps
from lxc_userns.rootfs.tree import printable

_LONGEST = 40


def running(inventory: Inventory) -> Iterator[tuple[Kind, Holder]]:
    """What runs in a user namespace, and with which host IDs.

    The kernel is asked, not libvirt alone, so that containers of other
    runtimes count as well.
    """
    controllers: dict[int, str] | None = None
    for process in with_other_maps():
        if controllers is None:
            controllers = _controllers(inventory)
        with suppress(ProcessLookupError):
            name = _describe(process, controllers)
            uid, gid = process.uid_map, process.gid_map
            yield from _holders("uid", name, (row[1:] for row in uid))
            yield from _holders("gid", name, (row[1:] for row in gid))


def _holders(
    kind: Kind, name: str, ranges: Iterable[tuple[int, int]]
) -> Iterator[tuple[Kind, Holder]]:
    for start, count in ranges:
        ids = range(start, start + count)
        yield kind, Holder(f"{name} ({start}:{count})", ids)


def _controllers(inventory: Inventory) -> dict[int, str]:
    """Names of libvirt's containers by process ID of their controllers."""
    with suppress(LibvirtError):
        return {
            guest.controller: guest.name
            for guest in inventory.guests.list()
            if guest.controller is not None
        }
    return {}


def _describe(process: Process, controllers: dict[int, str]) -> str:
    name = controllers.get(process.parent)
    if name is not None:
        return f"the running container {name}"
    # A process may call itself what it likes.
    command = printable(process.command)[:_LONGEST]
    return f"the running process {process.pid} ({command})"
