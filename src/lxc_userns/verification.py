# SPDX-License-Identifier: Apache-2.0
"""What runs, compared with what was promised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.linux.process import Process, Rows
from lxc_userns.needs import Mode


@dataclass(frozen=True, slots=True)
class VerifiedInstance:
    """A running instance that is what was promised.

    :param name: its name.
    :param mode: ``private`` or ``host``.
    :param pid: host's process ID of its first process.
    :param uid_map: the rows of that process's ``uid_map``, written as the
        configuration writes ID maps.
    :param gid_map: the rows of its ``gid_map``.
    """

    name: str
    mode: Mode
    pid: int
    uid_map: str
    gid_map: str


def describe(name: str, mode: Mode, init: Process) -> VerifiedInstance:
    """What a container's first process has."""
    return VerifiedInstance(
        name, mode, int(init.pid), _show(init.uid_map), _show(init.gid_map)
    )


def mismatches(id_maps: IdMaps | None, init: Process) -> Iterator[str]:
    """How a container's first process differs from what was promised.

    :param id_maps: what was promised; None promises nothing.
    :returns: a sentence for each difference.
    """
    if id_maps is None:
        return
    with Process("self") as this:
        if init.user_namespace == this.user_namespace:
            yield "it runs in the host's user namespace"
    for name, found, promised in (
        ("uid_map", init.uid_map, id_maps.uid),
        ("gid_map", init.gid_map, id_maps.gid),
    ):
        # libvirt sorts the entries.
        if sorted(found) != sorted(_rows(promised)):
            yield f"its {name} is {_show(found)}, promised was {promised}"


def _rows(id_map: IdMap) -> Rows:
    return tuple((entry.guest, entry.host, entry.count) for entry in id_map)


def _show(rows: Rows) -> str:
    return ",".join(":".join(map(str, row)) for row in rows) or "empty"
