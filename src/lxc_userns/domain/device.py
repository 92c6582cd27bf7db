# SPDX-License-Identifier: Apache-2.0
"""Devices of the host for a container: ``<hostdev mode='capabilities'>``."""

from __future__ import annotations

from typing import Final

from lxml import etree

from lxc_userns.domain.document import attribute, text_at
from lxc_userns.exceptions import DomainXmlError, NeedsError
from lxc_userns.spec.requirements import Device

#: libvirt's type of device, and its element for the path, by kind.
_TYPES: Final = {"char": ("misc", "char"), "block": ("storage", "block")}


def to_element(device: Device) -> etree._Element:
    """``<hostdev>``."""
    kind, tag = _TYPES[device.kind]
    element = etree.Element("hostdev", mode="capabilities", type=kind)
    source = etree.SubElement(element, "source")
    etree.SubElement(source, tag).text = device.path
    return element


def from_domain(domain: etree._Element) -> tuple[Device, ...]:
    """The devices of a ``<domain>``, in its order.

    :raises DomainXmlError: for one that this package would not give.
    """
    return tuple(
        _from_element(element)
        for element in domain.iterfind("devices/hostdev")
        if element.get("type") != "net"
    )


def _from_element(element: etree._Element) -> Device:
    found = attribute(element, "type")
    for kind, (name, tag) in _TYPES.items():
        if found == name:
            path = text_at(element, f"source/{tag}") or ""
            try:
                return Device(path, "block" if kind == "block" else "char")
            except NeedsError as err:
                raise DomainXmlError(f"<hostdev>: {err}") from None
    raise DomainXmlError(f"<hostdev>: type {found!r} is not one that LXC has")
