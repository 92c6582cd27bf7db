# SPDX-License-Identifier: Apache-2.0
"""Devices of the host for a container: ``<hostdev mode='capabilities'>``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import attribute, text_at
from lxc_userns.domain.splice import Editor
from lxc_userns.exceptions import DomainXmlError, NeedsError
from lxc_userns.spec.requirements import Device

#: libvirt's type of device, and its element for the path, by kind.
_TYPES: Final = {"char": ("misc", "char"), "block": ("storage", "block")}


def to_element(device: Device) -> etree._Element:
    """Return ``<hostdev>``."""
    kind, tag = _TYPES[device.kind]
    element = etree.Element("hostdev", mode="capabilities", type=kind)
    source = etree.SubElement(element, "source")
    etree.SubElement(source, tag).text = device.path
    return element


def from_domain(domain: etree._Element) -> tuple[Device, ...]:
    """Return the devices of a ``<domain>``, in its order.

    :raises DomainXmlError: for one that this package would not give.
    """
    return tuple(
        _from_element(element)
        for element in domain.iterfind("devices/hostdev")
        if element.get("type") != "net"
    )


def conflicts(
    domain: etree._Element, promised: Sequence[Device], editor: Editor
) -> Iterator[str]:
    """Give a ``<domain>`` these devices; yield others that it has."""
    missing = [*promised]
    for element in domain.iterfind("devices/hostdev"):
        device = _read(element)
        if device in promised:
            missing = [each for each in missing if each != device]
        else:
            yield (
                f"<hostdev> {describe_source(element)}: was not promised; "
                "request the device, or remove it"
            )
    for element in domain.iterfind("devices/disk"):
        yield (
            f"<disk> {describe_source(element)}: was not promised; request "
            "the device, or what is on it as a volume"
        )
    for each in missing:
        present = domain.findall("devices/*")
        if present:
            editor.insert_after(present[-1], to_element(each))
        else:
            editor.add_in(etree.Element("devices"), [to_element(each)], "os")


def describe_source(element: etree._Element) -> str:
    """Return what a device is from, for an error text."""
    for source in element.iterfind("source"):
        for text in (*source.attrib.values(), *source.itertext()):
            if str(text).strip():
                return shown(str(text).strip())
    return shown(element.get("type"))


def _read(element: etree._Element) -> Device | None:
    if element.get("mode") != "capabilities":
        return None
    try:
        return _from_element(element)
    except DomainXmlError:
        return None


def _from_element(element: etree._Element) -> Device:
    found = attribute(element, "type")
    for kind, (name, tag) in _TYPES.items():
        if found == name:
            path = text_at(element, f"source/{tag}") or ""
            try:
                return Device(path, "block" if kind == "block" else "char")
            except NeedsError as err:
                raise DomainXmlError(f"<hostdev>: {err}") from None
    names = " or ".join(repr(name) for name, _ in _TYPES.values())
    raise DomainXmlError(f"<hostdev>: type {found!r}: expected {names}")
