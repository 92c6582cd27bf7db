# SPDX-License-Identifier: Apache-2.0
"""Transaction on the lease database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields, replace
from itertools import takewhile
from typing import Any

from lxc_userns.commands import command
from lxc_userns.exceptions import LeaseError
from lxc_userns.idmap import KINDS, IdMaps, Kind
from lxc_userns.idmap.idset import IdSet
from lxc_userns.leases.lease import Lease, ShiftedTree

_LEASE = "instance, uuid, uid_start, gid_start, count, acquired, missing"
_FIELDS = tuple(each.name for each in fields(Lease))


class LeaseTransaction:
    """The leases, within one transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def get(self, instance: str) -> Lease | None:
        """Return the lease of an instance, None if it has none."""
        query = f"SELECT {_LEASE} FROM lease WHERE instance = ?"  # noqa: S608
        row = self._database.execute(query, (instance,)).fetchone()
        return None if row is None else _lease(row)

    def all(self) -> list[Lease]:
        """Return all leases, by their user IDs."""
        query = f"SELECT {_LEASE} FROM lease ORDER BY uid_start"  # noqa: S608
        return [*map(_lease, self._database.execute(query))]

    def overlapping(self, kind: Kind, ids: range) -> list[Lease]:
        """Return the leases that have any of these IDs, by these."""
        query = (
            f"SELECT {_LEASE} FROM lease "  # noqa: S608 - of constants
            f"WHERE {kind}_start < ? ORDER BY {kind}_start DESC"
        )
        rows = self._database.execute(query, (ids.stop,))
        # They share no ID: the first that ends before is the last to look at.
        found = takewhile(
            lambda lease: lease.ids(kind).stop > ids.start,
            map(_lease, rows),
        )
        return [*found][::-1]

    def check_unleased(self, instance: str, id_maps: IdMaps) -> None:
        """Check that no other instance has a lease of these IDs.

        :raises LeaseError: if one has.
        """
        for kind, entry in id_maps.entries:
            for lease in self.overlapping(kind, entry.host_ids):
                if lease.instance != instance:
                    raise LeaseError(
                        instance,
                        f"the host IDs of its ID map entry {entry} are leased "
                        f"to the instance {lease.instance} ({lease})",
                    )

    def used(self, kind: Kind) -> IdSet:
        """Return all IDs that any instance ever had."""
        query = "SELECT start, stop FROM used WHERE kind = ? ORDER BY start"
        rows = self._database.execute(query, (kind,))
        return IdSet(tuple(range(*row) for row in rows))

    def released(self, kind: Kind) -> Iterator[range]:
        """Yield ranges that were used and are not now, the oldest first."""
        query = (
            "SELECT start, stop FROM released WHERE kind = ? "
            "ORDER BY number, start"
        )
        for row in self._database.execute(query, (kind,)):
            yield range(*row)

    def trees(self) -> list[ShiftedTree]:
        """Return the trees noted as shifted, also for IDs without a lease."""
        query = "SELECT path, kind, start, stop FROM tree ORDER BY path"
        return [
            ShiftedTree(path, kind, range(*ids))
            for path, kind, *ids in self._database.execute(query)
        ]

    @property
    def has_trees(self) -> bool:
        """Whether anything is noted as shifted."""
        query = "SELECT EXISTS (SELECT 1 FROM tree)"
        (found,) = self._database.execute(query).fetchone()
        return bool(found)

    @property
    def is_new(self) -> bool:
        """Whether no instance ever had a lease."""
        query = "SELECT NOT EXISTS (SELECT 1 FROM used)"
        (found,) = self._database.execute(query).fetchone()
        return bool(found)

    def add(self, lease: Lease) -> None:
        """Give a lease to an instance that has none.

        :raises LeaseError: if another lease has any of its IDs, or its
            instance or UUID has one already.
        """
        with self._refused(lease):
            self._database.execute(
                f"INSERT INTO lease ({_LEASE}) "  # noqa: S608 - of constants
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                astuple(lease),
            )
        for kind in KINDS:
            self._use(kind, lease.ids(kind))

    def confirm(self, instance: str, uuid: str | None) -> Lease | None:
        """Note that an instance is there; nothing if it has no lease.

        :param uuid: its UUID, if that is known.
        :returns: its lease, as it is then.
        :raises LeaseError: if another instance has that UUID.
        """
        lease = self.get(instance)
        if lease is None:
            return None
        renewed = replace(lease, uuid=lease.uuid or uuid, unknown_since=None)
        # Else there would be something to sync.
        if renewed != lease:
            self.restore(renewed)
        return renewed

    def restore(self, lease: Lease) -> None:
        """Restore the UUID of a lease, and since when it is unknown.

        :raises LeaseError: if another instance has that UUID.
        """
        with self._refused(lease):
            self._database.execute(
                "UPDATE lease SET uuid = ?, missing = ? WHERE instance = ?",
                (lease.uuid, lease.unknown_since, lease.instance),
            )

    def remove(self, lease: Lease) -> None:
        """Take a lease back."""
        self._database.execute(
            "DELETE FROM lease WHERE instance = ?", (lease.instance,)
        )
        for kind in KINDS:
            self._release(kind, lease.ids(kind))

    def mark_used(self, id_maps: IdMaps) -> None:
        """Take back what an instance had without a lease.

        It is not new any more; what is leased of it meanwhile stays so.
        """
        for kind, entry in id_maps.entries:
            held = self.overlapping(kind, entry.host_ids)
            leased = IdSet.of(lease.ids(kind) for lease in held)
            for ids in IdSet((entry.host_ids,)) - leased:
                self._use(kind, ids)
                self._release(kind, ids)

    def note_tree(self, tree: ShiftedTree) -> None:
        """Note that something on disk is shifted, or about to be."""
        # One that is noted already leaves nothing to sync.
        self._database.execute(
            "INSERT OR IGNORE INTO tree VALUES (?, ?, ?, ?)",
            (tree.path, tree.kind, tree.ids.start, tree.ids.stop),
        )

    def released_trees(self) -> list[ShiftedTree]:
        """Return the trees shifted for IDs without a lease."""
        return [
            tree
            for tree in self.trees()
            if not self.overlapping(tree.kind, tree.ids)
        ]

    def forget_trees(self, trees: Iterable[ShiftedTree]) -> None:
        """Forget what is gone, or not shifted for these IDs any more."""
        for tree in trees:
            self._database.execute(
                "DELETE FROM tree "
                "WHERE path = ? AND kind = ? AND start = ? AND stop = ?",
                (tree.path, tree.kind, tree.ids.start, tree.ids.stop),
            )

    def _use(self, kind: Kind, ids: range) -> None:
        """Note that IDs were leased, and are no longer released."""
        touching = "kind = ? AND start <= ? AND stop >= ?"
        key = (kind, ids.stop, ids.start)
        (start, stop) = self._database.execute(
            f"SELECT min(start), max(stop) FROM used WHERE {touching}",  # noqa: S608
            key,
        ).fetchone()
        self._database.execute(f"DELETE FROM used WHERE {touching}", key)  # noqa: S608
        merged = IdSet.of((range(start or ids.start, stop or ids.stop), ids))
        self._insert("used", kind, merged)

        for start, stop, number in self._released_overlapping(kind, ids):
            self._database.execute(
                "DELETE FROM released WHERE kind = ? AND start = ?",
                (kind, start),
            )
            left = IdSet.of((range(start, stop),)) - IdSet.of((ids,))
            self._insert("released", kind, left, number)

    def _released_overlapping(
        self, kind: Kind, ids: range
    ) -> list[tuple[int, int, int]]:
        query = (
            "SELECT start, stop, number FROM released "
            "WHERE kind = ? AND start < ? ORDER BY start DESC"
        )
        rows = self._database.execute(query, (kind, ids.stop))
        # They share no ID: the first that ends before is the last to look at.
        return [*takewhile(lambda row: row[1] > ids.start, rows)]

    def _release(self, kind: Kind, ids: range) -> None:
        query = (
            "SELECT coalesce(max(number), 0) + 1 FROM released WHERE kind = ?"
        )
        (number,) = self._database.execute(query, (kind,)).fetchone()
        self._insert("released", kind, IdSet.of((ids,)), number)

    def _insert(self, table: str, kind: Kind, ids: IdSet, *more: int) -> None:
        marks = ", ".join("?" * (3 + len(more)))
        self._database.executemany(
            f"INSERT INTO {table} VALUES ({marks})",  # noqa: S608
            [(kind, each.start, each.stop, *more) for each in ids],
        )

    @contextmanager
    def _refused(self, lease: Lease) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as err:
            reason = self._find_twin(lease) or str(err)
            raise LeaseError(
                lease.instance, f"no such lease can be given: {reason}"
            ) from err

    def _find_twin(self, lease: Lease) -> str | None:
        """Return which instance has a UUID already, and what to do."""
        query = "SELECT instance FROM lease WHERE uuid = ? AND instance != ?"
        values = (lease.uuid, lease.instance)
        row = self._database.execute(query, values).fetchone()
        if row is None:
            return None
        remedy = command("lease", "release", row[0])
        return (
            f"its uuid is that of {row[0]}, which has one; give it another "
            f"UUID, or run: {remedy}"
        )


def _lease(row: Sequence[Any]) -> Lease:
    """Return the lease of a row of the columns in :data:`_LEASE`."""
    return Lease(**dict(zip(_FIELDS, row, strict=True)))
