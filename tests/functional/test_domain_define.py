# SPDX-License-Identifier: Apache-2.0
"""libvirt takes every form of domain that we write, and all that is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import libvirt
import pytest
from hypothesis import HealthCheck, given, settings

from lxc_userns import domain
from lxc_userns.idmap import IdMap, IdMaps
from tests.unit.domain import strategies
from tests.unit.domain.samples import PUNCHED_MAPS, SAMPLES

pytestmark = pytest.mark.needs("private-libvirtd")


@contextmanager
def defined(
    connection: libvirt.virConnect, domain_xml: str
) -> Iterator[libvirt.virDomain]:
    """Define a domain, by libvirt's schema and rules; undefine it again."""
    handle = connection.defineXMLFlags(
        domain_xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    )
    try:
        yield handle
    finally:
        handle.undefine()


def as_libvirt_has_it(handle: libvirt.virDomain) -> domain.Domain:
    return domain.Domain.from_xml(
        handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    )


def complete(ours: domain.Domain, theirs: domain.Domain) -> domain.Domain:
    """Our domain with what libvirt makes up where we leave it open."""
    interfaces = [
        replace(our, mac=their.mac)
        if isinstance(our, domain.Interface)
        and isinstance(their, domain.Interface)
        and our.mac is None
        else our
        for our, their in zip(ours.interfaces, theirs.interfaces, strict=True)
    ]
    return replace(
        ours,
        uuid=ours.uuid or theirs.uuid,
        emulator=ours.emulator or theirs.emulator,
        interfaces=interfaces,
        id_maps=by_guest_id(ours.id_maps),
    )


def by_guest_id(id_maps: IdMaps | None) -> IdMaps | None:
    if id_maps is None:
        return None
    return IdMaps(
        uid=IdMap(tuple(sorted(id_maps.uid))),
        gid=IdMap(tuple(sorted(id_maps.gid))),
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(libvirt_connection: libvirt.virConnect, name: str) -> None:
    ours = SAMPLES[name]
    with defined(libvirt_connection, ours.to_xml()) as handle:
        theirs = as_libvirt_has_it(handle)
    assert theirs == complete(ours, theirs)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ours=strategies.domains)
def test_every_form(
    libvirt_connection: libvirt.virConnect, ours: domain.Domain
) -> None:
    with defined(libvirt_connection, ours.to_xml()) as handle:
        theirs = as_libvirt_has_it(handle)
    assert theirs == complete(ours, theirs)


def test_added_id_maps(libvirt_connection: libvirt.virConnect) -> None:
    """XML of libvirt's, edited, is taken, and nothing else changed."""
    host_mode = SAMPLES["host-mode"]
    with defined(libvirt_connection, host_mode.to_xml()) as handle:
        before = as_libvirt_has_it(handle)
        text = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    with defined(
        libvirt_connection, domain.add_id_maps(text, PUNCHED_MAPS)
    ) as handle:
        after = as_libvirt_has_it(handle)
        theirs = handle.XMLDesc()
    # With libvirt's own quotes: a fixed point.
    assert domain.add_id_maps(theirs, PUNCHED_MAPS) == theirs
    assert after == replace(
        before,
        id_maps=by_guest_id(PUNCHED_MAPS),
        features=domain.Features(privnet=True),
    )
