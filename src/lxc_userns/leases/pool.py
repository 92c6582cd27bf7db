# SPDX-License-Identifier: Apache-2.0
"""The pool: the host IDs from which leases are taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases.allocation import capacity, first_fit
from lxc_userns.subid import owners
from lxc_userns.subid.owners import (
    SUBGID,
    SUBUID,
    HasIds,
    IdOwner,
    IdOwnership,
)
from lxc_userns.text import shorten

if TYPE_CHECKING:
    from lxc_userns.idmap import Kind

_FILES = (str(SUBUID), str(SUBGID))
#: Never leased, whoever owns them: root, the owner that stands for unmapped
#: ones, and -1 of 16 bits.
_RESERVED = IdSet((range(1), range(65534, 65536)))
#: On no common Linux system do these belong to anybody: they are above what
#: systemd hands out (UIDS-GIDS), and what SSSD and FreeIPA give by default.
_USUALLY_FREE = IdSet((range(2013265920, 2147352576),))
_MOST_NAMED = 5
_NONE = IdSet()
_HERE = "the user namespace that this runs in (/proc/self/uid_map, gid_map)"


@dataclass(frozen=True, slots=True)
class Pool:
    """The IDs of one kind from which leases are taken.

    :param kind: ``user`` or ``group``.
    :param source: where it is from, as ``/etc/subuid``.
    :param ids: all of its IDs.
    :param holders: who else holds some of them. They are never leased.
    :param absent: what the source has besides, and the user namespace that
        this process runs in does not have.
    """

    kind: str
    source: str
    ids: IdSet
    holders: tuple[IdOwner, ...] = ()
    absent: IdSet = _NONE

    @property
    def free(self) -> IdSet:
        """The IDs that no one else holds."""
        return self.ids - IdSet.of(holder.ids for holder in self.holders)

    def with_holders(self, holders: Iterable[IdOwner]) -> Pool:
        """Return the same pool, with these holders too."""
        found = (
            each for each in holders if any(self.ids.overlapping(each.ids))
        )
        return replace(self, holders=(*self.holders, *found))

    def describe_absent(self) -> str:
        """Return a text about IDs of the source that do not exist, or ""."""
        if not self.absent:
            return ""
        shown = ", ".join(f"{e.start}:{len(e)}" for e in self.absent)
        return (
            f"of the {self.kind} IDs in {self.source}, {shown} are not in "
            f"{_HERE}, and so not in the pool"
        )

    def describe_holders(self) -> str:
        """Return the first holders, empty if there are none."""
        names = [*map(str, self.holders[:_MOST_NAMED])]
        if len(self.holders) > _MOST_NAMED:
            names.append(f"{len(self.holders) - _MOST_NAMED} more")
        return ", ".join(names)


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools of both kinds, at one moment.

    :param owner: whose subordinate IDs they are, a name or a number.
    :param uid: the pool of user IDs.
    :param gid: the pool of group IDs.
    :param hosts: who has which user IDs, and group IDs.
    :param malformed: what is wrong with which line of which file.
    """

    owner: str
    uid: Pool
    gid: Pool
    hosts: tuple[IdOwnership, IdOwnership]
    malformed: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[Kind, Pool]]:
        yield "uid", self.uid
        yield "gid", self.gid

    def with_holders(self, holders: Iterable[tuple[Kind, IdOwner]]) -> Pools:
        """Return the same pools, with these holders too."""
        known = [*holders]
        uid, gid = (
            pool.with_holders(holder for of, holder in known if of == kind)
            for kind, pool in self
        )
        return replace(self, uid=uid, gid=gid)

    def contains(self, lease: HasIds) -> bool:
        """Return whether all IDs of a lease are in the pool."""
        return all(lease.ids(kind) in pool.ids for kind, pool in self)

    def problems(self, size: int) -> list[str]:
        """Return why no range can be leased; empty if some can.

        :param size: number of IDs of either kind.
        """
        return [*map("; ".join, self.shortages(size))]

    def shortages(self, size: int) -> list[tuple[str, str]]:
        """Return the same, each in two: why, and what to do."""
        return [
            (reason, self._remedy(pool, size))
            for _, pool in self
            if (reason := self._why_unusable(pool, size))
        ]

    def suggest_subid_line(self, size: int) -> str | None:
        """Return a line for a file that gives a pool of many ranges.

        What the other file has already, if it can; None if little is free.
        """
        taken = self._taken()
        for _, pool in self:
            for ids in pool.ids:
                if len(ids) >= size and not taken.overlaps(ids):
                    return f"{self.owner}:{ids.start}:{len(ids)}"
        free = _USUALLY_FREE - taken
        for number in (1000, 100, 10, 1):
            start = first_fit(_USUALLY_FREE, free, number * size)
            if start is not None:
                return f"{self.owner}:{start}:{number * size}"
        return None

    def _taken(self) -> IdSet:
        """Return IDs of either kind that others have, or that are not here."""
        return IdSet.of(
            ids for host in self.hosts for ids in _held(host, self.owner)
        )

    def _why_unusable(self, pool: Pool, size: int) -> str | None:
        if not pool.ids and pool.absent:
            return pool.describe_absent()
        if not pool.ids:
            return (
                f"{self.owner} has no subordinate {pool.kind} IDs in "
                f"{pool.source}"
            )
        if capacity(pool.ids, pool.free, size):
            return None
        held = pool.describe_holders()
        return (
            f"the {len(pool.ids)} subordinate {pool.kind} IDs of "
            f"{self.owner} in {pool.source} have no room for {size}"
            + (f" beside {held}" if held else "")
        )

    def _remedy(self, pool: Pool, size: int) -> str:
        line = self.suggest_subid_line(size)
        if line is None or pool.source not in _FILES:
            return f"give it {size} or more there that no one has"
        return f"add the line {line} to {pool.source}"


def read_pools(owner: str) -> Pools:
    """Return the pools that this host has now.

    :param owner: value of ``[lxc_userns] subid_owner``.
    :raises PrerequisiteError: if the source of subordinate IDs cannot be
        asked.
    """
    return make_pools(
        owner, owners.read_host_uids(owner), owners.read_host_gids(owner)
    )


def make_pools(owner: str, users: IdOwnership, groups: IdOwnership) -> Pools:
    """Return the pools of an owner, by who has which IDs of the host."""
    return Pools(
        owner,
        _make(users, owner),
        _make(groups, owner),
        (users, groups),
        tuple(
            f"{path}, line {line.line}, {shorten(line.text)!r}: {line.reason}"
            for path, host in zip(_FILES, (users, groups), strict=True)
            for line in host.malformed
        ),
    )


def _make(host: IdOwnership, owner: str) -> Pool:
    owned = IdSet.of(host.owned(owner)) - _RESERVED
    ids = owned & host.present
    holders = tuple(host.holders(ids, owner))
    return Pool(host.kind, host.source, ids, holders, owned - ids)


def _held(host: IdOwnership, owner: str) -> Iterator[range]:
    yield from _USUALLY_FREE - host.present
    for number in host.names:
        yield range(number, number + 1)
    for held in host.subordinates:
        if host.canonical_owner(held.owner) != host.canonical_owner(owner):
            yield held.ids
