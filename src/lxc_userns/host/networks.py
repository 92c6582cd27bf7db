# SPDX-License-Identifier: Apache-2.0
"""Networks of libvirt and bridges of the host, for containers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from lxc_userns.domain import read_bridges
from lxc_userns.exceptions import (
    DomainXmlError,
    LibvirtError,
    LibvirtUnreachableError,
    NoSuchContainerError,
)
from lxc_userns.findings import Finding
from lxc_userns.host.check import describe, passed, warned
from lxc_userns.host.libvirtd import Connect
from lxc_userns.libvirtd.daemon import Daemon

_INSTALL = (
    "only --network network:NAME needs it; install it (Debian packages "
    "libvirt-daemon-driver-network or, before Debian 13, libvirt-daemon, and "
    "libvirt-daemon-config-network) and restart libvirtd"
)


def check_driver(connect: Connect) -> Finding:
    """Return whether libvirt has a network driver, and what networks."""
    try:
        networks = connect().networks()
    except LibvirtUnreachableError:
        raise
    except LibvirtError as err:
        return warned(f"libvirt has none: {describe(err)}", _INSTALL)
    return evaluate_networks(networks)


def evaluate_networks(networks: Mapping[str, bool]) -> Finding:
    """Return whether libvirt's networks can be attached to.

    :param networks: whether each is active, by name.
    """
    stopped = sorted(name for name, active in networks.items() if not active)
    if stopped:
        return warned(
            f"not active: {', '.join(stopped)}",
            "; ".join(f"virsh -c lxc:/// net-start {name}" for name in stopped)
            + ", and net-autostart for each boot",
        )
    names = ", ".join(sorted(networks))
    return passed(f"active: {names}" if names else "there is no network yet")


def check_bridges(connect: Connect, found: Daemon | None) -> Finding:
    """Return whether the bridges are there that domains are attached to.

    :param found: the running daemon.
    """
    guests, users = connect(), dict[str, str]()
    for guest in guests.list():
        # One that is gone meanwhile, or says nothing that could be read.
        with suppress(NoSuchContainerError, DomainXmlError):
            for bridge in read_bridges(guests.xml(guest.name)):
                users.setdefault(bridge, guest.name)
    devices = found.network_devices if found and users else frozenset()
    return evaluate_bridges(users, devices)


def evaluate_bridges(
    users: Mapping[str, str], devices: Collection[str]
) -> Finding:
    """Return whether bridges are there.

    :param users: a domain that is attached to each, by the bridge's name.
    :param devices: network devices that libvirt can use.
    """
    missing = sorted({*users} - {*devices})
    if missing:
        return warned(
            ", ".join(
                f"there is no bridge {name}, which {users[name]} is to be "
                "attached to"
                for name in missing
            ),
            "; ".join(f"ip link add {name} type bridge" for name in missing),
        )
    names = ", ".join(sorted(users))
    return passed(f"there are: {names}" if names else "no domain names one")
