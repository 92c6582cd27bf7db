# SPDX-License-Identifier: Apache-2.0
"""The database: made, opened, and one transaction at a time."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from lxc_userns import own_paths
from lxc_userns.exceptions import ConfigError
from lxc_userns.leases.schema import STATEMENTS, VERSION
from lxc_userns.leases.transaction import LeaseTransaction
from lxc_userns.linux import directory, locks

_FILE = "leases.sqlite3"
_LOCK = "leases"
#: Seconds that one process waits for the others; a step takes milliseconds.
_PATIENCE = 120.0
#: Also for a table that is missing, or there without a version.
_DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
)
#: Of what the kernel has an error for as well.
_AS_KERNEL = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
_REMEDY = (
    "it is damaged: restore a backup of it, or move it away, and instances "
    "lease anew what their records have"
)


class LeaseStore:
    """The leases of a host.

    :param state_path: directory that has to be ours and closed to others;
        it is made when something is written, and checked at every use.
    """

    def __init__(self, state_path: str) -> None:
        self._path = state_path

    @contextmanager
    def write(self, *, keep: bool = True) -> Iterator[LeaseTransaction]:
        """Read and change leases, with all other processes waiting.

        All changes are kept if the body ends well, and none otherwise.

        :param keep: False: to see what would be. Then nothing is kept or
            made, not even the database.
        :raises ConfigError: if the database cannot be used.
        :raises LockTimeoutError: if others change it for too long.
        """
        with self._queued(keep), self._opened(create=keep) as database:
            # Rolled back when it is closed, unless committed before.
            database.execute("BEGIN IMMEDIATE")
            if _version(database) == 0:
                _make_schema(database)
                if keep:
                    os.chmod(self.file, 0o600)
            yield LeaseTransaction(database)
            if keep:
                database.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[LeaseTransaction]:
        """Read leases, as they are at one moment; makes nothing.

        :raises ConfigError: if the database cannot be used.
        """
        with self._opened(create=False) as database:
            database.execute("BEGIN")
            if _version(database):
                yield LeaseTransaction(database)
                return
        with closing(_connect(":memory:")) as database:
            _make_schema(database)
            yield LeaseTransaction(database)

    @contextmanager
    def _queued(self, create: bool) -> Iterator[None]:
        """Wait for those who came first: SQLite lets some wait for long."""
        with ExitStack() as stack:
            try:
                if create or self.exists:
                    place = directory.open_private(
                        self._path, 0o700, create=create
                    )
                    fd = stack.enter_context(place)
                    with locks.translated(_LOCK):
                        locks.wait(fd, _LOCK)
            except OSError as err:
                raise self._error(err) from err
            with locks.noted(_LOCK):
                yield

    @property
    def exists(self) -> bool:
        """Whether there may ever have been a lease."""
        return os.path.exists(self.file)

    @property
    def file(self) -> str:
        """Path of the database."""
        return f"{self._path}/{_FILE}"

    @contextmanager
    def _opened(self, *, create: bool) -> Iterator[sqlite3.Connection]:
        """Open the database, or as if there were an empty one."""
        with ExitStack() as stack:
            try:
                database = _connect(self._place(create))
                stack.callback(database.close)
                _check_version(database)
            # What SQLite says of damage quotes it, and need not be text.
            except (OSError, sqlite3.Error, UnicodeDecodeError) as err:
                raise self._error(err) from err
            try:
                yield database
            except sqlite3.Error as err:
                raise self._error(err) from err

    def _place(self, create: bool) -> str:
        """Return the path that SQLite is to open."""
        if not create and not self.exists:
            return ":memory:"
        with directory.open_private(self._path, 0o700, create=create):
            # Never opened but by SQLite: to close any other descriptor of it
            # takes away the locks of all threads (fcntl(2)).
            if os.path.islink(self.file):
                raise OSError(errno.ELOOP, "is a symbolic link", self.file)
        return self.file

    def _error(
        self, err: OSError | sqlite3.Error | UnicodeDecodeError
    ) -> ConfigError:
        text = (
            own_paths.explain(err, self._path)
            if isinstance(err, OSError)
            else str(err)
        )
        reason = f"the leases in {self.file}: {text}"
        # The rest of the bits says where.
        code = getattr(err, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        if code in _DAMAGED or isinstance(err, UnicodeDecodeError):
            reason += f"; {_REMEDY}"
        elif code in _AS_KERNEL:
            reason += f"; {own_paths.REMEDIES[_AS_KERNEL[code]]}"
        return ConfigError("[lxc_userns] state_path", self._path, reason)


def _connect(file: str) -> sqlite3.Connection:
    timeout = locks.time_left(_PATIENCE)
    with ExitStack() as stack:
        database = stack.enter_context(
            closing(
                sqlite3.connect(file, timeout=timeout, isolation_level=None)
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
    """Return the version of the schema, 0 before there is one."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _check_version(database: sqlite3.Connection) -> None:
    # In one transaction: another process may make the schema in between.
    database.execute("BEGIN")
    version = _version(database)
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema)"
    (has_tables,) = database.execute(query).fetchone()
    database.execute("COMMIT")
    # Else what has lost its version would pass for a new one.
    if version == 0 and has_tables:
        raise sqlite3.DatabaseError(
            f"it has tables, and no version; {_REMEDY}"
        )
    if version not in (0, VERSION):
        age = "a newer" if version > VERSION else "no"
        raise sqlite3.DatabaseError(
            f"its schema has version {version}, this version of lxc-userns "
            f"knows {VERSION}: it is of {age} version; use the one that has "
            "written it, or restore a backup of its own"
        )


def _make_schema(database: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        database.execute(statement)
