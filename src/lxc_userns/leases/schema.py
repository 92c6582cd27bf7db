# SPDX-License-Identifier: Apache-2.0
"""The tables of the database, and what it refuses."""

from __future__ import annotations

from lxc_userns.idmap import KINDS

#: Version of the tables; another one is refused.
VERSION = 1

#: What makes them.
STATEMENTS = (
    """
    CREATE TABLE lease (
        instance TEXT NOT NULL PRIMARY KEY,
        uuid TEXT UNIQUE,
        uid_start INTEGER NOT NULL UNIQUE CHECK (uid_start > 0),
        gid_start INTEGER NOT NULL UNIQUE CHECK (gid_start > 0),
        count INTEGER NOT NULL CHECK (count > 0),
        acquired INTEGER NOT NULL,
        missing INTEGER
    ) STRICT
    """,
    # The leases that are there share no ID, so the last one to start before
    # the end of a new one is the only one that could meet it.
    *(
        f"""
        CREATE TRIGGER lease_{kind}_disjoint BEFORE INSERT ON lease
        WHEN NEW.{kind}_start < (
            SELECT {kind}_start + count FROM lease
            WHERE {kind}_start < NEW.{kind}_start + NEW.count
            ORDER BY {kind}_start DESC LIMIT 1
        )
        BEGIN SELECT RAISE(ABORT, '{kind} ranges overlap'); END
        """  # noqa: S608 - of constants
        for kind in KINDS
    ),
    """
    CREATE TRIGGER lease_fixed
    BEFORE UPDATE OF instance, uid_start, gid_start, count ON lease
    BEGIN SELECT RAISE(ABORT, 'a lease does not change'); END
    """,
    # All that any instance ever had, merged: where nothing is, no one was.
    """
    CREATE TABLE used (
        kind TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
        PRIMARY KEY (kind, start)
    ) STRICT, WITHOUT ROWID
    """,
    # Of that, what no one holds; the number grows with each release.
    """
    CREATE TABLE released (
        kind TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (kind, start)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX released_first ON released (kind, number, start)",
    # What was shifted on disk, also for IDs that no one has now.
    """
    CREATE TABLE tree (
        path TEXT NOT NULL, kind TEXT NOT NULL,
        start INTEGER NOT NULL, stop INTEGER NOT NULL,
        PRIMARY KEY (path, kind, start, stop)
    ) STRICT, WITHOUT ROWID
    """,
    f"PRAGMA user_version = {VERSION}",
)
