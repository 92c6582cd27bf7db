# SPDX-License-Identifier: Apache-2.0
"""Leases that somebody asks for by hand, by an instance's name or its UUID.

Both mean the same instance: it has one lease, however it is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxc_userns.leases.allocator import LeaseAllocator
    from lxc_userns.leases.lease import Lease


def acquire(allocator: LeaseAllocator, instance: str) -> Lease:
    """Give an instance a lease, or the one that it has.

    :param instance: its name or its UUID; a name comes before the UUID of
        another.
    :raises LxcUsernsError: as :meth:`LeaseAllocator.acquire
        <lxc_userns.leases.allocator.LeaseAllocator.acquire>` does.
    """
    return allocator.acquire(_find_name(allocator, instance))


def release(allocator: LeaseAllocator, instance: str) -> None:
    """Take the lease of an instance back; the same parameters.

    :raises LeaseError: if an instance was prepared with it, or anything runs
        with its IDs.
    """
    allocator.release_unused(_find_name(allocator, instance))


def _find_name(allocator: LeaseAllocator, instance: str) -> str:
    """Return the name that an instance has a lease by, or is to get one."""
    if allocator.find(instance) is not None:
        return instance
    name, uuid = allocator.instances.names_of(instance)
    with allocator.leases.read() as leases:
        for lease in leases.all():
            if lease.instance in (name, uuid) or (
                lease.uuid is not None and lease.uuid in (instance, uuid)
            ):
                return lease.instance
    return name
