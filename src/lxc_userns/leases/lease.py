# SPDX-License-Identifier: Apache-2.0
"""A lease, and what may outlive it on disk."""

from __future__ import annotations

from dataclasses import dataclass

from lxc_userns.idmap import KINDS, IdMap, IdMapEntry, IdMaps, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The host IDs that an instance holds.

    :param instance: its name.
    :param uuid: its UUID, None while only its name is known.
    :param uid_start: first user ID.
    :param gid_start: first group ID.
    :param count: number of IDs of either kind, 1 or more.
    :param acquired: when it was acquired, in seconds of Unix time.
    :param unknown_since: since when libvirt is known not to know the
        instance, in seconds of Unix time; None: it knows it, as far as is
        known.
    """

    instance: str
    uuid: str | None
    uid_start: int
    gid_start: int
    count: int
    acquired: int
    unknown_since: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.count} IDs, users from {self.uid_start} on, groups from "
            f"{self.gid_start} on"
        )

    def ids(self, kind: Kind) -> range:
        """Return the IDs of one kind."""
        start = self.uid_start if kind == "uid" else self.gid_start
        return range(start, start + self.count)

    def is_for(self, id_maps: IdMaps | None) -> bool:
        """Return whether these ID maps give just these host IDs."""
        return id_maps is not None and all(
            entry.host_ids == self.ids(kind) for kind, entry in id_maps.entries
        )

    @property
    def id_maps(self) -> IdMaps:
        """The ID maps that give guest IDs from 0 on these host IDs.

        :raises IdMapError: with fewer than 6 IDs: group 5 (tty) is needed.
        """
        uid, gid = (
            IdMap((IdMapEntry(0, self.ids(kind).start, self.count),))
            for kind in KINDS
        )
        return IdMaps(uid, gid)


@dataclass(frozen=True, slots=True)
class ShiftedTree:
    """Something on disk that was shifted for IDs of an instance.

    :param path: the directory or image.
    :param kind: of which kind the IDs are.
    :param ids: the host IDs.
    """

    path: str
    kind: Kind
    ids: range
