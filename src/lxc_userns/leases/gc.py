# SPDX-License-Identifier: Apache-2.0
"""Garbage: leases and records of instances that libvirt does not know.

A compute service has crashed, or somebody has undefined a domain, of which
nothing tells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from lxc_userns import lazy
from lxc_userns.exceptions import LibvirtError, LxcUsernsError
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.linux import locks

if TYPE_CHECKING:
    from lxc_userns.instances.originals import OriginalDomain
    from lxc_userns.leases import Lease
    from lxc_userns.libvirtd.client import Guests
    from lxc_userns.services import Services

#: Seconds that libvirt has not to know an instance for.
GRACE_PERIOD = 3600.0
#: Seconds to wait for whoever works on an instance.
_PATIENCE = 5.0
_UNKNOWN = "libvirt does not know it"

Outcome = Literal["returned", "removed", "waiting", "kept"]


@dataclass(frozen=True, slots=True)
class Orphan:
    """An instance that libvirt does not know.

    :param instance: its name.
    :param uuid: its UUID, None if that is not known.
    :param lease: its lease, None if it has none.
    :param outcome: ``returned`` if its lease was, and all that was prepared
        for it is gone; ``removed`` if it had none; ``waiting`` for the grace
        period to be over; ``kept`` for somebody to look after.
    :param reason: why.
    """

    instance: str
    uuid: str | None
    lease: Lease | None
    outcome: Outcome
    reason: str


def collect_garbage(
    services: Services,
    grace_period: float = GRACE_PERIOD,
    *,
    only: Collection[str] = (),
    records: bool = False,
) -> list[Orphan]:
    """Release instances that libvirt has not known for a while.

    Their leases are returned, their views unmounted, their records removed.
    What is shifted on disk stays so. What no one else has, an upper layer or
    what was unpacked from an archive, is never removed: such an instance is
    kept, as is what runs, and what somebody works on. Files of locks that were
    left by who was killed are removed as well.

    One that libvirt does not know is only noted when it is met first, for its
    domain may be about to be defined, or defined anew. So two calls are
    needed, at least as far apart as the period. The same goes for what is kept
    of a domain that was converted, and has become no instance.

    :param services: the services of the host.
    :param grace_period: how long, in seconds; with 0 one call is enough.
    :param only: names of the instances that count; none for all.
    :param records: whether instances without a lease count.
    :returns: all orphans, those with leases first, by their user IDs.
    :raises LibvirtError: if libvirt cannot be asked; nothing is released
        then.
    """
    held = [*_Instance.all(services)]
    known = _Known.ask(services.guests)
    orphans: list[Orphan] = []
    for each in held:
        if (only and each.name not in only) or not (each.lease or records):
            continue
        if each in known:
            each.confirm(services)
        else:
            orphans += _collect_one(services, each, grace_period)
    if records:
        orphans += _collect_originals(services, only, grace_period)
    services.store.sweep_locks()
    locks.sweep_place()
    return orphans


@dataclass(frozen=True, slots=True)
class _Instance:
    """An instance of which there is something.

    :param name: its name.
    :param lease: its lease.
    :param record: its record.
    :param unknown_since: when libvirt was first seen not to know it.
    """

    name: str
    lease: Lease | None
    record: InstanceRecord | DamagedRecord | None
    unknown_since: int | None

    @classmethod
    def all(cls, services: Services) -> Iterator[_Instance]:
        """Yield all, those with leases first."""
        with services.allocator.leases.read() as leases:
            held = leases.all()
        records = {each.name: each for each in services.store.load_all()}
        for lease in held:
            record = records.pop(lease.instance, None)
            yield cls(lease.instance, lease, record, lease.unknown_since)
        for name, record in records.items():
            yield cls(name, None, record, services.store.unknown_since(name))

    @classmethod
    def load(cls, services: Services, name: str) -> _Instance:
        """Return one as it is now.

        :raises InstanceError: if its record cannot be read.
        """
        record = services.store.load(name)
        lease = services.allocator.find(name)
        if lease is not None:
            return cls(name, lease, record, lease.unknown_since)
        return cls(name, None, record, services.store.unknown_since(name))

    @property
    def uuids(self) -> set[str]:
        """UUIDs by which libvirt would know it."""
        found = set()
        if self.lease is not None and self.lease.uuid is not None:
            found.add(self.lease.uuid)
        if isinstance(self.record, InstanceRecord):
            found.add(self.record.uuid)
        return found

    def mark_missing(self, services: Services, now: int) -> None:
        """Note that libvirt may not know it, unless that is noted."""
        if self.lease is not None:
            services.allocator.mark_missing(self.name, now)
        elif self.record is not None:
            services.store.mark_unknown(self.name, now)

    def confirm(self, services: Services) -> None:
        """Note that libvirt knows it."""
        if self.unknown_since is None:
            return
        if self.lease is not None:
            services.allocator.confirm(self.name)
        else:
            services.store.confirm(self.name)

    def orphan(self, outcome: Outcome, reason: str) -> Orphan:
        """Return it with what has become of it."""
        uuid = next(iter(self.uuids), None)
        return Orphan(self.name, uuid, self.lease, outcome, reason)


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

    def __contains__(self, instance: _Instance) -> bool:
        if instance.uuids:
            return not self.uuids.isdisjoint(instance.uuids)
        # Acquired by hand, for a name or a UUID, or damaged.
        return instance.name in self.names | self.uuids


def _collect_one(
    services: Services, instance: _Instance, grace_period: float
) -> list[Orphan]:
    """Collect one instance; an error is its outcome, and stops no others."""
    try:
        # libvirt may be asked under this lock: no hook waits for it. Neither
        # a command nor another collection is at work on the instance then.
        with (
            locks.time_limit(_PATIENCE),
            services.store.lock_container(instance.name),
        ):
            return [*_collect_locked(services, instance.name, grace_period)]
    except LibvirtError:
        raise
    except (LxcUsernsError, OSError) as err:
        return [instance.orphan("kept", str(err))]


def _collect_locked(
    services: Services, name: str, grace_period: float
) -> Iterator[Orphan]:
    """Collect an instance whose container is locked."""
    now = int(services.allocator.clock())
    # Noted before libvirt is asked: who prepares the instance again, or asks
    # for its lease, takes the note away, and who did so before has defined
    # the domain before.
    _Instance.load(services, name).mark_missing(services, now)
    instance = _Instance.load(services, name)
    if instance.unknown_since is None:
        return
    if instance in _Known.ask(services.guests):
        instance.confirm(services)
        return
    seconds = now - instance.unknown_since
    with services.store.lock(name):
        if _Instance.load(services, name) != instance:
            return
        reason = _why_kept(services, instance)
        if reason is not None:
            yield instance.orphan("kept", reason)
        elif seconds < grace_period:
            yield instance.orphan("waiting", _unknown_for(seconds))
        elif _has_own_files(instance.record):
            reason = "has files of its own; destroy or release the instance"
            yield instance.orphan("kept", reason)
        elif _release(services, instance):
            outcome: Outcome = "returned" if instance.lease else "removed"
            yield instance.orphan(outcome, _UNKNOWN)


def _why_kept(services: Services, instance: _Instance) -> str | None:
    """Return what an instance is in use by; its lock is held.

    libvirt was asked before: its domain may have been defined or started in
    between. What libvirt cannot read after an upgrade it does not know either.
    """
    uuids: list[str | None] = [*instance.uuids] or [None]
    for uuid in uuids:
        if services.instances.running.find(instance.name, uuid) is not None:
            return "is running"
        file = services.defined.find(instance.name, uuid)
        if file is not None:
            return f"is defined in {file}"
    if instance.lease is not None:
        for user in services.allocator.pool.users(instance.lease):
            return f"is in use by {user}"
    return None


def _has_own_files(record: InstanceRecord | DamagedRecord | None) -> bool:
    return isinstance(record, InstanceRecord) and record.has_own_files


def _release(services: Services, instance: _Instance) -> bool:
    """Release an instance whose lock is held, and tell whether it was."""
    record = instance.record
    if isinstance(record, DamagedRecord):
        return False
    give_back = partial(
        services.allocator.release, record=record, expected=instance.lease
    )
    if not services.releaser.release(instance.name, give_back):
        return False
    for uuid in instance.uuids:
        services.originals.forget(uuid)
    return True


def _collect_originals(
    services: Services, only: Collection[str], grace_period: float
) -> Iterator[Orphan]:
    """Collect what is kept of converted domains that are no instances.

    Of one that is, it goes with that.
    """
    kept = services.originals.all()
    if not kept:
        return
    instances = _Instance.all(services)
    used = {uuid for each in instances for uuid in each.uuids}
    used |= _Known.ask(services.guests).uuids
    for each in kept:
        if each.uuid in used:
            services.originals.confirm(each.uuid)
        elif not only or each.name in only:
            try:
                yield from _collect_original(services, each, grace_period)
            except LibvirtError:
                raise
            except (LxcUsernsError, OSError) as err:
                yield Orphan(each.name, each.uuid, None, "kept", str(err))


def _collect_original(
    services: Services, original: OriginalDomain, grace_period: float
) -> Iterator[Orphan]:
    """Collect what is kept of one converted domain."""
    name, uuid = original.name, original.uuid
    now = int(services.allocator.clock())
    with locks.time_limit(_PATIENCE), services.originals.lock():
        since = services.originals.mark_unknown(uuid, now)
        # Who keeps one has found it defined, and waits for this lock.
        if since is None or uuid in _Known.ask(services.guests).uuids:
            return
        seconds = now - since
        file = services.defined.find(uuid, uuid)
        if file is not None:
            yield Orphan(name, uuid, None, "kept", f"is defined in {file}")
        elif seconds < grace_period:
            yield Orphan(name, uuid, None, "waiting", _unknown_for(seconds))
        else:
            services.originals.forget(uuid)
            yield Orphan(name, uuid, None, "removed", _UNKNOWN)


def _unknown_for(seconds: int) -> str:
    return f"libvirt has not known it for {seconds} seconds"


__getattr__ = lazy.renamed(
    __name__, OrphanedLease="lxc_userns.leases.gc.Orphan"
)
