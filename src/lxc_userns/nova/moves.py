# SPDX-License-Identifier: Apache-2.0
"""Instances that move from host to host.

Nova's driver is called in the same way for one that is started anew and for
one that goes: where hosts share the files neither deletes any.
"""

from __future__ import annotations

from typing import Any

import nova.conf
from nova import objects
from nova.objects import fields

CONF = nova.conf.CONF

#: Those in which Nova's compute manager ends what was evacuated; the host has
#: come back, and the instance does not, whatever becomes of it elsewhere.
_EVACUATED = ("accepted", "pre-migrating", "done")
_REVERTED = "reverting"


def has_left(instance: Any) -> bool:
    """Return whether an instance is on another host by now."""
    return instance.host not in (None, CONF.host)


def is_leaving(context: Any, instance: Any) -> bool:
    """Return whether an instance that is ended does not come back here.

    On one that is resized or migrated it may, until that is confirmed.
    """
    if has_left(instance):
        return True
    migrations = objects.MigrationList.get_by_filters(
        context,
        {
            "instance_uuid": instance.uuid,
            "status": [_REVERTED, *_EVACUATED],
        },
    )
    return any(map(_leaves, migrations))


def _leaves(migration: Any) -> bool:
    """Return whether a migration takes an instance from this host."""
    if migration.source_compute == migration.dest_compute:
        return False
    if migration.migration_type == fields.MigrationType.EVACUATION:
        return bool(migration.source_compute == CONF.host)
    return bool(
        migration.status == _REVERTED and migration.dest_compute == CONF.host
    )
