# SPDX-License-Identifier: Apache-2.0
"""Leases whose instance is gone, as after a crash of a compute service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lxc_userns.exceptions import LibvirtError, LxcUsernsError
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.leases import Lease
from lxc_userns.libvirtd.client import Guests
from lxc_userns.services import Services

#: Seconds that libvirt has not to know an instance for.
GRACE_PERIOD = 3600.0

Outcome = Literal["returned", "waiting", "kept"]


@dataclass(frozen=True, slots=True)
class OrphanedLease:
    """A lease whose instance libvirt does not know.

    :param lease: the lease.
    :param outcome: ``returned`` to the pool; ``waiting`` for the grace period
        to be over; ``kept`` for somebody to look after.
    :param reason: why.
    """

    lease: Lease
    outcome: Outcome
    reason: str


def collect_garbage(
    services: Services, grace_period: float = GRACE_PERIOD
) -> list[OrphanedLease]:
    """Return leases whose instance libvirt has not known for a while.

    With the lease goes what was prepared for the instance: its views are
    unmounted. What nobody else has, its upper layer or what was unpacked for
    it, is never removed: such an instance is kept.

    One that libvirt does not know is only noted when it is met first, for its
    domain may be about to be defined, or defined anew. So two calls are
    needed, at least as far apart as the period.

    :param services: the services of the host.
    :param grace_period: how long, in seconds; with 0 one call is enough.
    :returns: all orphans, by their user IDs.
    :raises LibvirtError: if libvirt cannot be asked; nothing is returned
        then.
    """
    allocator = services.allocator
    with allocator.leases.read() as leases:
        held = leases.all()
    known = _Known.ask(services.guests)
    orphans: list[OrphanedLease] = []
    for lease in held:
        if lease not in known:
            orphans += _collect_one(services, lease, grace_period)
        elif lease.unknown_since is not None:
            allocator.confirm(lease.instance)
    return orphans


@dataclass(frozen=True, slots=True)
class _Known:
    """The domains that libvirt knows."""

    names: frozenset[str]
    uuids: frozenset[str]

    @classmethod
    def ask(cls, guests: Guests) -> _Known:
        """Ask libvirt now."""
        found = guests.list()
        return cls(
            frozenset(guest.name for guest in found),
            frozenset(guest.uuid for guest in found),
        )

    def __contains__(self, lease: Lease) -> bool:
        if lease.uuid is not None:
            return lease.uuid in self.uuids
        # Acquired by hand, for a name or a UUID.
        return lease.instance in self.names | self.uuids


def _collect_one(
    services: Services, lease: Lease, grace_period: float
) -> list[OrphanedLease]:
    """Collect one lease; an error is its outcome, and stops no others."""
    try:
        with services.store.lock_container(lease.instance):
            return [*_judge(services, lease.instance, grace_period)]
    except LibvirtError:
        raise
    except (LxcUsernsError, OSError) as err:
        return [OrphanedLease(lease, "kept", str(err))]


def _judge(
    services: Services, instance: str, grace_period: float
) -> Iterator[OrphanedLease]:
    """Do with the lease of an instance what is to be done."""
    allocator = services.allocator
    now = int(allocator.clock())
    # Noted before libvirt is asked: who asks for the lease again takes the
    # note away, and who did so before has defined the domain before.
    lease = allocator.mark_missing(instance, now)
    if lease is None or lease.unknown_since is None:
        return
    if lease in _Known.ask(services.guests):
        allocator.confirm(instance)
        return
    with services.store.lock(instance):
        yield from _judge_unknown(
            services, lease, now - lease.unknown_since, grace_period
        )


def _judge_unknown(
    services: Services, lease: Lease, seconds: int, grace_period: float
) -> Iterator[OrphanedLease]:
    """Do with a lease what is to be done, whose instance is locked.

    :param seconds: for how long libvirt has not known it.
    """
    allocator, instance = services.allocator, lease.instance
    if allocator.find(instance) != lease:
        return  # It was released, or asked for again.
    running = allocator.pool.users(lease)
    record = services.store.load(instance)
    if services.instances.running.find(instance, lease.uuid) is not None:
        yield OrphanedLease(lease, "kept", "is running")
    elif running:
        yield OrphanedLease(lease, "kept", f"is in use by {running[0]}")
    elif seconds < grace_period:
        reason = f"libvirt has not known it for {seconds} seconds"
        yield OrphanedLease(lease, "waiting", reason)
    elif record is not None and _has_own_files(record):
        reason = "has files of its own; destroy or release the instance"
        yield OrphanedLease(lease, "kept", reason)
    else:
        give_back = partial(allocator.release, record=record, expected=lease)
        if services.releaser.release(lease.instance, give_back):
            yield OrphanedLease(lease, "returned", "libvirt does not know it")


def _has_own_files(record: InstanceRecord) -> bool:
    return record.archive is not None or record.strategy.traits.private_upper
