# SPDX-License-Identifier: Apache-2.0
"""Host IDs of ID maps that users, groups or other owners of the host hold.

One rule for ``config check`` and for every start of a container: who has the
same ID may send signals to a container's processes, and own its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import IdMap, IdMapEntry, IdMaps, Kind
from lxc_userns.subid import owners, unlisted
from lxc_userns.subid.owners import IdOwner, IdOwnership

#: Owner of the lines of ``/etc/subuid`` and ``/etc/subgid`` by which a
#: deployer keeps IDs from being handed out to users.
RESERVER: Final = "lxc-userns"
_REMEDY: Final = (
    f"map IDs that belong to {RESERVER} alone there, or to no user, or set "
    "[lxc_userns] held_ids = allow"
)
_MOST_HOLDERS: Final = 5


@dataclass(frozen=True, slots=True)
class HeldIds:
    """IDs of an entry of a map that another owner holds.

    :param entry: the entry.
    :param holder: a phrase, as ``user alice (1000)``.
    """

    entry: IdMapEntry
    holder: str

    def __str__(self) -> str:
        ids = self.entry.host_ids
        return f"host IDs {ids.start}-{ids.stop - 1} are held by {self.holder}"


def find_held(
    id_maps: IdMaps, owner: str = ""
) -> tuple[tuple[HeldIds, ...], tuple[HeldIds, ...]]:
    """Return the user and the group IDs of ID maps that others hold.

    :param owner: owner of the pool, whose subordinate IDs do not count.
    :raises PrerequisiteError: if the host's users or subordinate IDs cannot
        be read.
    """
    uids = _find(id_maps.uid, owners.read_host_uids(owner), owner)
    gids = _find(id_maps.gid, owners.read_host_gids(owner), owner)
    return tuple(uids), tuple(gids)


def check_unheld(
    id_maps: IdMaps, names: tuple[str, str], owner: str = ""
) -> None:
    """Refuse ID maps with IDs that others hold.

    :param names: what the error calls the two maps, as ``--uid-map``.
    :param owner: as for :func:`find_held`.
    :raises ConfigError: naming every holder, as far as they are few.
    :raises PrerequisiteError: as :func:`find_held`.
    """
    found = [
        (name, held)
        for name, of_kind in zip(names, find_held(id_maps, owner), strict=True)
        for held in of_kind
    ]
    if not found:
        return
    options = ", ".join(dict.fromkeys(name for name, _ in found))
    value = ",".join(dict.fromkeys(str(held.entry) for _, held in found))
    reason = "; ".join(dict.fromkeys(str(held) for _, held in found))
    raise ConfigError(options, value, f"{reason}; {_REMEDY}")


def _find(id_map: IdMap, host: IdOwnership, owner: str) -> Iterator[HeldIds]:
    for entry in id_map:
        holders = [*_holders(host, entry.host_ids, owner)]
        if not holders and unlisted.can_be():
            kind: Kind = "uid" if host.kind == "user" else "gid"
            holders += unlisted.find(kind, entry.host_ids)
        for holder in islice(holders, _MOST_HOLDERS):
            yield HeldIds(entry, str(holder))
        if len(holders) > _MOST_HOLDERS:
            yield HeldIds(entry, f"{len(holders) - _MOST_HOLDERS} more")


def _holders(host: IdOwnership, ids: range, owner: str) -> Iterator[IdOwner]:
    others = {*host.holders(ids, owner)} if owner else None
    for holder in host.holders(ids, RESERVER):
        if others is None or holder in others:
            yield holder
