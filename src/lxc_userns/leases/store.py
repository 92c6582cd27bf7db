# SPDX-License-Identifier: Apache-2.0
"""The database: made, opened, and one transaction at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from lxc_userns.exceptions import ConfigError
from lxc_userns.leases.rows import Leases
from lxc_userns.leases.schema import STATEMENTS, VERSION
from lxc_userns.linux import directory

_FILE = "leases.sqlite3"
#: Seconds that one process waits for the others; a step takes milliseconds.
_PATIENCE = 120.0


class LeaseStore:
    """The leases of a host.

    :param state_path: directory that has to be ours and closed to others;
        it is made when something is written, and checked at every use.
    """

    def __init__(self, state_path: str) -> None:
        self._path = state_path

    @contextmanager
    def changing(self, *, keep: bool = True) -> Iterator[Leases]:
        """Read and change leases, with all other processes waiting.

        All changes are kept if the body ends well, and none otherwise.

        :param keep: False: to see what would be. Then nothing is kept or
            made, not even the database.
        :raises ConfigError: if the database cannot be used.
        """
        with self._queued(keep), self._opened(create=keep) as database:
            # Rolled back when it is closed, unless committed before.
            database.execute("BEGIN IMMEDIATE")
            if _version(database) == 0:
                _make_schema(database)
                if keep:
                    os.chmod(self._file, 0o600)
            yield Leases(database)
            if keep:
                database.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[Leases]:
        """Read leases, as they are at one moment; makes nothing.

        :raises ConfigError: if the database cannot be used.
        """
        with self._opened(create=False) as database:
            database.execute("BEGIN")
            if _version(database):
                yield Leases(database)
                return
        with closing(_connect(":memory:")) as database:
            _make_schema(database)
            yield Leases(database)

    @contextmanager
    def _queued(self, create: bool) -> Iterator[None]:
        """Wait for those who came first: SQLite lets some wait for long."""
        with ExitStack() as stack:
            try:
                if create or self.is_there:
                    place = directory.owned(self._path, 0o700, create=create)
                    fcntl.flock(stack.enter_context(place), fcntl.LOCK_EX)
            except OSError as err:
                raise self._error(err) from err
            yield

    @property
    def is_there(self) -> bool:
        """Whether there may ever have been a lease."""
        return os.path.exists(self._file)

    @property
    def _file(self) -> str:
        return f"{self._path}/{_FILE}"

    @contextmanager
    def _opened(self, *, create: bool) -> Iterator[sqlite3.Connection]:
        """Open the database, or as if there were an empty one."""
        with ExitStack() as stack:
            try:
                database = _connect(self._place(create))
                stack.callback(database.close)
                if _version(database) not in (0, VERSION):
                    raise sqlite3.DatabaseError("its version is not known")
            except (OSError, sqlite3.Error) as err:
                raise self._error(err) from err
            try:
                yield database
            except sqlite3.Error as err:
                raise self._error(err) from err

    def _place(self, create: bool) -> str:
        """What SQLite is to open."""
        if not create and not self.is_there:
            return ":memory:"
        with directory.owned(self._path, 0o700, create=create):
            # Never opened but by SQLite: to close any other descriptor of it
            # takes away the locks of all threads (fcntl(2)).
            if os.path.islink(self._file):
                raise OSError(errno.ELOOP, "is a symbolic link", self._file)
        return self._file

    def _error(self, err: OSError | sqlite3.Error) -> ConfigError:
        strerror = getattr(err, "strerror", None)
        reason = f"the leases in {self._file}: {strerror or err}"
        return ConfigError("[lxc_userns] state_path", self._path, reason)


def _connect(file: str) -> sqlite3.Connection:
    with ExitStack() as stack:
        database = stack.enter_context(
            closing(
                sqlite3.connect(file, timeout=_PATIENCE, isolation_level=None)
            )
        )
        # A transaction that was reported as done outlives a power loss. The
        # journal is cut to nothing rather than removed, which needs no sync
        # of the directory.
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA journal_mode = TRUNCATE")
        stack.pop_all()
        return database


def _version(database: sqlite3.Connection) -> int:
    """The version of the schema, 0 before there is one."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _make_schema(database: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        database.execute(statement)
