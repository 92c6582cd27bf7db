# SPDX-License-Identifier: Apache-2.0
"""The network of a container: ``<interface>``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import (
    check_choice,
    check_label,
    check_match,
    refuse,
)
from lxc_userns.domain.document import child, children, parse_domain

_TYPES: Final = frozenset({"network", "bridge"})
#: What a default route leads to, by the version of IP.
_EVERYTHING: Final = {4: str(IPv4Address(0)), 6: str(IPv6Address(0))}
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
    :param addresses: IP addresses that libvirt gives it, each with the length
        of its prefix, as ``192.0.2.10/24``; none leaves that to the container.
    :param gateways: routers that it reaches all others by; each of a family
        of which it has an address.
    :raises DomainXmlError: for a value that libvirt refuses.
    """

    type: str
    source: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()

    @classmethod
    def network(cls, name: str) -> Interface:
        """Attach to a network that libvirt manages."""
        return cls("network", name)

    @classmethod
    def bridge(cls, name: str) -> Interface:
        """Attach to a bridge of the host."""
        return cls("bridge", name)

    @classmethod
    def parse(cls, text: str) -> Interface:
        """Read ``KIND:NAME[,address=IP/N][,gateway=IP]``, as users write it.

        :raises DomainXmlError: for a value that cannot be used.
        """
        source, *options = text.split(",")
        kind, _, name = source.partition(":")
        given: dict[str, list[str]] = {"address": [], "gateway": []}
        for option in options:
            key, equals, value = option.partition("=")
            if key not in given or not equals:
                refuse("network", text, "expected address=IP/N or gateway=IP")
            given[key].append(value)
        addresses, gateways = map(tuple, given.values())
        return cls(kind, name, addresses, gateways)

    def __post_init__(self) -> None:
        check_choice("interface type", self.type, _TYPES)
        what = f"source of {self.type} interface"
        if self.type == "network":
            check_label(what, self.source)
        else:
            check_match(what, self.source, _DEVICE, "a device name")
        families = {_parse_address(each).version for each in self.addresses}
        for gateway in self.gateways:
            if _parse_gateway(gateway).version not in families:
                what = "is of a family of which there is no address"
                refuse("gateway", gateway, f"{what}; give one")

    def to_element(self) -> etree._Element:
        """Return ``<interface>``."""
        element = etree.Element("interface", type=self.type)
        etree.SubElement(element, "source", {self.type: self.source})
        for address in map(_parse_address, self.addresses):
            etree.SubElement(
                element,
                "ip",
                address=str(address.ip),
                family=f"ipv{address.version}",
                prefix=str(address.network.prefixlen),
            )
        for gateway in map(_parse_gateway, self.gateways):
            etree.SubElement(
                element,
                "route",
                family=f"ipv{gateway.version}",
                address=_EVERYTHING[gateway.version],
                prefix="0",
                gateway=str(gateway),
            )
        etree.SubElement(element, "link", state="up")
        return element


def _parse_address(text: str) -> IPv4Interface | IPv6Interface:
    # Without the length it would be alone on its network.
    if "/" in text:
        with suppress(ValueError):
            return ip_interface(text)
    form = "an IP address and the length of its prefix, as 192.0.2.10/24"
    return refuse("address", text, f"expected {form}")


def _parse_gateway(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        return refuse("gateway", text, "expected an IP address")


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


def read_networks(domain_xml: str) -> dict[str, str]:
    """Return what a domain is attached to, by the MAC address of each.

    :param domain_xml: an LXC domain, from anywhere, that libvirt has defined.
    :returns: as ``bridge:br0`` or ``network:default``.
    :raises DomainXmlError: if it is anything else.
    """
    found = {}
    for element in parse_domain(domain_xml).iterfind("devices/interface"):
        kind, mac = element.get("type", ""), child(element, "mac", "address")
        source = child(element, "source", kind)
        if mac is not None:
            found[mac.lower()] = kind if source is None else f"{kind}:{source}"
    return found


def read_bridges(domain_xml: str) -> tuple[str, ...]:
    """Return the names of the host's bridges that a domain is attached to.

    :param domain_xml: an LXC domain, from anywhere.
    :raises DomainXmlError: if it is anything else.
    """
    return _read_sources(domain_xml, "bridge")


def read_network_names(domain_xml: str) -> tuple[str, ...]:
    """Return the names of libvirt's networks that a domain is attached to.

    :param domain_xml: an LXC domain, from anywhere.
    :raises DomainXmlError: if it is anything else.
    """
    return _read_sources(domain_xml, "network")


def _read_sources(domain_xml: str, kind: str) -> tuple[str, ...]:
    sources = parse_domain(domain_xml).iterfind(
        f"devices/interface[@type='{kind}']/source"
    )
    return tuple(each.get(kind, "") for each in sources)
