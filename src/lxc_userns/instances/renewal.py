# SPDX-License-Identifier: Apache-2.0
"""Renewal of a record: what stays of the one before.

``known`` is that one, None for a new instance.
"""

from __future__ import annotations

from dataclasses import replace

from lxc_userns.exceptions import NoSuchContainerError
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.spec.strategy import Strategy


def renew(
    record: InstanceRecord,
    known: InstanceRecord | None,
    accept_replaced: bool,
) -> InstanceRecord:
    """Return a record with all that stays as it was.

    :param accept_replaced: whether what the host gives the instance may be
        other files than at first.
    """
    record = keep_dropped(_keep_choice(record, known), known)
    if known is not None:
        record = replace(record, named=known.named)
    return _keep_findings(record, known, accept_replaced)


def with_kind(
    known: InstanceRecord | None, wanted: InstanceRecord
) -> InstanceRecord | None:
    """Return a record of before the kind was noted, as if it had been."""
    if known is None or known.rootfs_kind is not None:
        return known
    return replace(known, rootfs_kind=wanted.rootfs_kind)


def ignoring_reasons(record: InstanceRecord) -> InstanceRecord:
    """Return the promises of a record, without notes about them."""
    # Another limit of processes counts from the next start on.
    return replace(
        record,
        mode_reasons=(),
        identities={},
        empty={},
        verified=None,
        max_processes=0,
        named=False,
    )


def is_same(known: InstanceRecord, ready: InstanceRecord) -> bool:
    """Return whether the same was promised before, of the same directory."""
    before, now = (
        each.identities.get(ready.rootfs) for each in (known, ready)
    )
    is_replaced = before and now and before.is_same(now) is False
    one, other = map(ignoring_reasons, (known, ready))
    return not is_replaced and one == other


def promised(
    wanted: InstanceRecord, known: InstanceRecord | None
) -> InstanceRecord:
    """Return what an instance was last promised.

    :raises NoSuchContainerError: if it is not there any more.
    """
    if known is None or known.uuid != wanted.uuid:
        # It was released meanwhile.
        raise NoSuchContainerError(
            wanted.name, "is unknown; call prepare with a request"
        )
    return known


def _keep_choice(
    record: InstanceRecord, known: InstanceRecord | None
) -> InstanceRecord:
    """Stay with what ``auto`` was when the instance was first prepared.

    Else a directory that was opened to others meanwhile would be shifted on
    disk, where there is something to be told.
    """
    if known is None or record.strategy not in (
        Strategy.AUTO,
        known.strategy,
    ):
        return record
    if (known.rootfs, known.id_maps) != (record.rootfs, record.id_maps):
        return record
    return replace(record, strategy=known.strategy, reason=known.reason)


def keep_dropped(
    record: InstanceRecord, known: InstanceRecord | None
) -> InstanceRecord:
    """Stay with the capabilities that it has dropped since it was made.

    Its domain may be from then.
    """
    if known is None or known.needs != record.needs:
        return record
    return replace(record, dropped=known.dropped)


def _keep_findings(
    record: InstanceRecord,
    known: InstanceRecord | None,
    accept_replaced: bool,
) -> InstanceRecord:
    """Keep what was found out about the files that it was given first."""
    if known is None or accept_replaced:
        return replace(record, identities={}, empty={})
    return replace(record, identities=known.identities, empty=known.empty)


def own_files(record: InstanceRecord) -> tuple[str | None, bool]:
    """Return what an instance has below the state path beside its record."""
    return record.archive, record.strategy.traits.private_upper
