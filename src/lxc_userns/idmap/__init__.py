# SPDX-License-Identifier: Apache-2.0
"""ID maps, and sets of IDs; pure."""

from lxc_userns.idmap.maps import (
    CONTAINER_IDS,
    FEW_IDS,
    ID_LIMIT,
    KINDS,
    MAX_ENTRIES,
    NOBODY_ID,
    SYSTEMD_CONTAINERS,
    TTY_GID,
    IdMap,
    IdMapEntry,
    IdMaps,
    Kind,
    advisories,
    broken_rules,
    broken_tty_rules,
    host_advisories,
)

__all__ = [
    "CONTAINER_IDS",
    "FEW_IDS",
    "ID_LIMIT",
    "KINDS",
    "MAX_ENTRIES",
    "NOBODY_ID",
    "SYSTEMD_CONTAINERS",
    "TTY_GID",
    "IdMap",
    "IdMapEntry",
    "IdMaps",
    "Kind",
    "advisories",
    "broken_rules",
    "broken_tty_rules",
    "host_advisories",
]
