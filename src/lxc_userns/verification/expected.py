# SPDX-License-Identifier: Apache-2.0
"""Expectations of containers, by our records or the XML of others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lxml import etree

from lxc_userns.domain import Capabilities, device, idmaps
from lxc_userns.domain.document import child, parse_domain, text_at
from lxc_userns.domain.filesystem import target_of, type_of
from lxc_userns.domain.interface import has_own_network
from lxc_userns.domain.namespaces import read_shared
from lxc_userns.exceptions import DomainXmlError, NeedsError
from lxc_userns.instances.record import InstanceRecord, volume_name
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED,
    SECURITY_MODELS,
    Device,
)
from lxc_userns.verification import Confinement, Expectation, View

if TYPE_CHECKING:
    from lxc_userns.spec.strategy import MountKind
    from lxc_userns.spec.volume import Volume


def of_record(
    record: InstanceRecord,
    domain_xml: str,
    places: Mapping[str, str] | None = None,
) -> Expectation:
    """Return the expectation of an instance of ours.

    :param domain_xml: its domain as it runs, which has the label that libvirt
        made for it.
    :param places: where links in its root filesystem led its volumes, by
        target; None: that is not looked at.
    """
    places = places or {}
    parent = os.path.dirname(record.view)
    root = record.strategy.traits.mount
    views = [View("/", record.view, root, frozenset({"nodev"}))]
    for number, volume in enumerate(record.volumes):
        is_idmapped = volume.owners == "idmap" and record.id_maps is not None
        kind: MountKind = "idmapped" if is_idmapped else "plain"
        source = f"{parent}/{volume_name(number)}"
        target = places.get(volume.target, volume.target)
        views.append(View(target, source, kind, _flags(volume)))
    return Expectation(
        record.name,
        record.id_maps,
        frozenset(record.needs.host_namespaces),
        frozenset(
            ({*CAPABILITIES} - DROPPED - {*record.dropped_capabilities})
            | {*record.needs.capabilities}
        ),
        record.devices,
        tuple(views),
        _confinement(record, domain_xml),
    )


def _flags(volume: Volume) -> frozenset[str]:
    flags = {
        "ro": volume.readonly,
        "nosuid": volume.nosuid,
        "nodev": volume.nodev,
    }
    return frozenset(name for name, is_set in flags.items() if is_set)


def of_domain(domain_xml: str) -> Expectation:
    """Return the expectation of a container of others, by its XML.

    :raises DomainXmlError: if it is no LXC domain, or has ID maps or
        devices that break a rule of this package.
    """
    domain = parse_domain(domain_xml)
    return Expectation(
        text_at(domain, "name") or "",
        idmaps.from_domain(domain),
        frozenset(_shared(domain)),
        Capabilities.from_domain(domain).allowed,
        (*device.from_domain(domain), *_disks(domain)),
        tuple(_views(domain)),
        next(_confinements(domain), None),
    )


def _confinement(
    record: InstanceRecord, domain_xml: str
) -> Confinement | None:
    model = record.security_model
    if model is None:
        return None
    for found in _confinements(parse_domain(domain_xml)):
        if found.model == model:
            return found
    return Confinement(model, None)


def _confinements(domain: etree._Element) -> Iterator[Confinement]:
    """Give the labels that libvirt made for a running domain."""
    for element in domain.iterfind("seclabel"):
        model, label = element.get("model"), text_at(element, "label")
        if model in SECURITY_MODELS and label:
            yield Confinement(model, label)


def _shared(domain: etree._Element) -> Iterator[str]:
    if not has_own_network(domain):
        yield "network"
    for shared in read_shared(domain):
        yield shared.kind


def _disks(domain: etree._Element) -> Iterator[Device]:
    for element in domain.iterfind("devices/disk[@type='block']"):
        name = child(element, "target", "dev")
        if name:
            try:
                yield Device(f"/dev/{name}", "block")
            except NeedsError as err:
                raise DomainXmlError(f"<disk>: {err}") from None


def _views(domain: etree._Element) -> Iterator[View]:
    for element in domain.iterfind("devices/filesystem"):
        source = child(element, "source", "dir")
        target = target_of(element)
        if type_of(element) == "mount" and source and target:
            yield View(target, os.path.realpath(source))
