# SPDX-License-Identifier: Apache-2.0
"""The network of a container: ``<interface>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import check_choice, check_label, check_match
from lxc_userns.domain.document import children, parse_domain

_TYPES: Final = frozenset({"network", "bridge"})
#: The kernel takes 15 characters, but neither "." nor "..".
_DEVICE: Final = r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,15}"


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface; made by a method named like its type.

    libvirt makes up its MAC address, and names it the next of ``eth0``,
    ``eth1``, ...

    :param type: ``network`` or ``bridge``.
    :param source: name of the libvirt network, or of the host's bridge, that
        it is attached to.
    :raises DomainXmlError: for a value that libvirt refuses.
    """

    type: str
    source: str

    @classmethod
    def network(cls, name: str) -> Interface:
        """Attach to a network that libvirt manages."""
        return cls("network", name)

    @classmethod
    def bridge(cls, name: str) -> Interface:
        """Attach to a bridge of the host."""
        return cls("bridge", name)

    def __post_init__(self) -> None:
        check_choice("interface type", self.type, _TYPES)
        what = f"source of {self.type} interface"
        if self.type == "network":
            check_label(what, self.source)
        else:
            check_match(what, self.source, _DEVICE, "a device name")

    def to_element(self) -> etree._Element:
        """Return ``<interface>``."""
        element = etree.Element("interface", type=self.type)
        etree.SubElement(element, "source", {self.type: self.source})
        etree.SubElement(element, "link", state="up")
        return element


def has_own_network(domain: etree._Element) -> bool:
    """Return whether libvirt gives a ``<domain>`` a network namespace.

    It does for all that lxcNeedNetworkNamespace() looks for; a network that
    is shared by ``<lxc:namespace>`` is not meant.
    """
    return (
        domain.find("devices/interface") is not None
        or next(children(domain, "features", "privnet"), None) is not None
        or any(
            device.get("mode") == "capabilities"
            and device.get("type") == "net"
            for device in domain.iterfind("devices/hostdev")
        )
    )


def read_bridges(domain_xml: str) -> tuple[str, ...]:
    """Return the names of the host's bridges that a domain is attached to.

    :param domain_xml: an LXC domain, from anywhere.
    :raises DomainXmlError: if it is anything else.
    """
    sources = parse_domain(domain_xml).iterfind(
        "devices/interface[@type='bridge']/source"
    )
    return tuple(each.get("bridge", "") for each in sources)
