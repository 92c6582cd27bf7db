# SPDX-License-Identifier: Apache-2.0
"""Metadata of this package in a domain.

A flat mapping of short texts below libvirt's ``<metadata>``, where it
survives everything that libvirt does with a domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import check_label, check_match, shown
from lxc_userns.domain.document import attribute, parse_domain, text_of
from lxc_userns.exceptions import DomainXmlError

#: Our XML namespace; the key for ``virDomainSetMetadata`` too.
NAMESPACE: Final = "urn:lxc-userns:domain:1.0"
_PREFIX: Final = "lxc-userns"
_INSTANCE: Final = f"{{{NAMESPACE}}}instance"
_ITEM: Final = f"{{{NAMESPACE}}}item"


def check_metadata(items: Mapping[str, str]) -> None:
    """Keys are words, values are one line each.

    :raises DomainXmlError: if not.
    """
    for key, value in items.items():
        check_match(
            "metadata key",
            key,
            "[A-Za-z][A-Za-z0-9_.-]*",
            "letters, digits, '_', '.' and '-'",
        )
        if value:
            check_label(f"metadata {key}", value)


def to_element(items: Mapping[str, str]) -> etree._Element:
    """``<metadata>`` with our part in it."""
    metadata = etree.Element("metadata")
    instance = etree.SubElement(
        metadata, _INSTANCE, nsmap={_PREFIX: NAMESPACE}
    )
    for key, value in sorted(items.items()):
        etree.SubElement(instance, _ITEM, name=key).text = value
    return metadata


def from_domain(domain: etree._Element) -> dict[str, str]:
    """Our part of a ``<domain>``'s metadata, empty if there is none."""
    items: dict[str, str] = {}
    for element in domain.iterfind(f"metadata/{_INSTANCE}/{_ITEM}"):
        key = attribute(element, "name")
        if key in items:
            raise DomainXmlError(f"metadata {shown(key)} is there twice")
        items[key] = text_of(element)
    return items


def read_metadata(domain_xml: str) -> dict[str, str]:
    """Read what this package noted in a domain.

    :param domain_xml: an LXC domain, from anywhere.
    :returns: empty for a domain that this package did not make.
    :raises DomainXmlError: if this is not an LXC domain, or the note has a
        key twice.
    """
    return from_domain(parse_domain(domain_xml))
