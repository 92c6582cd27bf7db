# SPDX-License-Identifier: Apache-2.0
"""The network of a container: ``<interface>`` and network ``<hostdev>``.

The types that libvirt's LXC driver can start, and of their settings those
that it heeds: it ignores ``<mtu>``, and a filter on a direct interface.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict, Unpack

from lxml import etree

from lxc_userns.domain.checks import (
    check_choice,
    check_label,
    check_match,
    refuse,
)
from lxc_userns.domain.document import (
    attribute,
    child,
    children,
    parse_domain,
    text_at,
)
from lxc_userns.exceptions import DomainXmlError

#: Attribute of ``<source>`` that names it, by type; ethernet has none.
_SOURCES: Final = {"network": "network", "bridge": "bridge", "direct": "dev"}
_TYPES: Final = frozenset({*_SOURCES, "ethernet"})
_MODES: Final = frozenset({"vepa", "bridge", "private", "passthrough"})
_DEFAULT_ROUTE: Final = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a network

_MAC: Final = "[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}"
_UUID: Final = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
#: The kernel takes 15 characters, but neither "." nor "..".
_DEVICE: Final = r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,15}"


class InterfaceOptions(TypedDict, total=False):
    """Options of an :class:`Interface` of any type."""

    mac: str | None
    host_device: str | None
    guest_device: str | None
    addresses: Sequence[str]
    gateways: Sequence[str]
    up: bool


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface; made by a method named like its type.

    :param type: ``network``, ``bridge``, ``ethernet`` or ``direct``.
    :param source: what it is attached to: name of a libvirt network, of a
        bridge, or of a network device of the host; None for ``ethernet``.
    :param mac: MAC address in the container; libvirt makes one up if None.
    :param host_device: name of the host's end; libvirt makes one up if None.
    :param guest_device: name in the container; if None the next of ``eth0``,
        ``eth1``, ...
    :param addresses: as ``192.0.2.7/24`` or ``2001:db8::7/64``.
    :param gateways: addresses of default routers, at most one of a family.
    :param up: whether it is up when init starts; with addresses it is.
    :param nwfilter: name of a libvirt network filter; not for ``direct``.
    :param mode: ``vepa``, ``bridge``, ``private`` or ``passthrough`` for
        ``direct``.
    :param openvswitch_id: UUID of the port, for a bridge of Open vSwitch.
    :raises DomainXmlError: for a value or combination that libvirt refuses
        or ignores.
    """

    type: str
    source: str | None = None
    mac: str | None = None
    host_device: str | None = None
    guest_device: str | None = None
    addresses: Sequence[str] = ()
    gateways: Sequence[str] = ()
    up: bool = True
    nwfilter: str | None = None
    mode: str | None = None
    openvswitch_id: str | None = None

    @classmethod
    def network(
        cls,
        name: str,
        *,
        nwfilter: str | None = None,
        **options: Unpack[InterfaceOptions],
    ) -> Interface:
        """Attach to a network that libvirt manages."""
        return cls("network", name, nwfilter=nwfilter, **options)

    @classmethod
    def bridge(
        cls,
        name: str,
        *,
        nwfilter: str | None = None,
        openvswitch_id: str | None = None,
        **options: Unpack[InterfaceOptions],
    ) -> Interface:
        """Attach to a bridge of the host."""
        return cls(
            "bridge",
            name,
            nwfilter=nwfilter,
            openvswitch_id=openvswitch_id,
            **options,
        )

    @classmethod
    def ethernet(
        cls,
        *,
        nwfilter: str | None = None,
        **options: Unpack[InterfaceOptions],
    ) -> Interface:
        """A pair of devices, the host's end attached to nothing."""
        return cls("ethernet", nwfilter=nwfilter, **options)

    @classmethod
    def direct(
        cls,
        device: str,
        *,
        mode: str = "vepa",
        **options: Unpack[InterfaceOptions],
    ) -> Interface:
        """A macvlan device on top of a network device of the host."""
        return cls("direct", device, mode=mode, **options)

    def __post_init__(self) -> None:
        check_choice("interface type", self.type, _TYPES)
        self._check_source()
        self._check_type()
        for what, value, pattern, form in (
            ("MAC address", self.mac, _MAC, "52:54:00:12:34:56, no multicast"),
            ("host device", self.host_device, _DEVICE, "a device name"),
            ("guest device", self.guest_device, _DEVICE, "a device name"),
            ("network filter", self.nwfilter, r"[A-Za-z_][\w.-]*", "a name"),
            ("Open vSwitch port", self.openvswitch_id, _UUID, "a UUID"),
        ):
            if value is not None:
                check_match(what, value, pattern, form)
        addresses = tuple(map(_address, self.addresses))
        object.__setattr__(self, "addresses", addresses)
        object.__setattr__(self, "gateways", _gateways(self.gateways))

    def _check_source(self) -> None:
        what = f"source of {self.type} interface"
        if self.type == "ethernet":
            if self.source is not None:
                refuse(what, self.source, "it has none")
        elif self.type == "network":
            check_label(what, self.source or "")
        else:
            check_match(what, self.source or "", _DEVICE, "a device name")

    def _check_type(self) -> None:
        what = f"{self.type} interface"
        if self.type == "direct":
            check_choice(f"mode of {what}", self.mode or "", _MODES)
            if self.nwfilter is not None:
                refuse(
                    f"network filter of {what}",
                    self.nwfilter,
                    "libvirt would ignore it; take a network or a bridge",
                )
        elif self.mode is not None:
            refuse(f"mode of {what}", self.mode, "only direct has one")
        if self.type != "bridge" and self.openvswitch_id is not None:
            refuse(
                f"Open vSwitch port of {what}",
                self.openvswitch_id,
                "only a bridge has one",
            )

    def to_element(self) -> etree._Element:
        """``<interface>``."""
        element = etree.Element("interface", type=self.type)
        source: dict[str, str | None] = {"mode": self.mode}
        if self.type in _SOURCES:
            source[_SOURCES[self.type]] = self.source
        for tag, attributes in (
            ("mac", {"address": self.mac}),
            ("source", source),
            ("target", {"dev": self.host_device}),
            ("guest", {"dev": self.guest_device}),
            ("filterref", {"filter": self.nwfilter}),
            ("link", {"state": "up" if self.up else None}),
        ):
            given = {name: v for name, v in attributes.items() if v}
            if given:
                etree.SubElement(element, tag, given)
        element.extend(self._address_elements())
        if self.openvswitch_id is not None:
            port = etree.SubElement(element, "virtualport", type="openvswitch")
            etree.SubElement(
                port, "parameters", interfaceid=self.openvswitch_id
            )
        return element

    def _address_elements(self) -> Iterator[etree._Element]:
        for text in self.addresses:
            address, _, prefix = text.partition("/")
            yield etree.Element(
                "ip",
                family=f"ipv{ipaddress.ip_address(address).version}",
                address=address,
                prefix=prefix,
            )
        for gateway in self.gateways:
            version = ipaddress.ip_address(gateway).version
            yield etree.Element(
                "route",
                family=f"ipv{version}",
                address=_DEFAULT_ROUTE[version],
                prefix="0",
                gateway=gateway,
            )

    @classmethod
    def from_element(cls, element: etree._Element) -> Interface:
        """Read ``<interface>``.

        :raises DomainXmlError: if LXC could not start it.
        """
        kind = attribute(element, "type")
        check_choice("interface type", kind, _TYPES)
        return cls(
            kind,
            child(element, "source", _SOURCES[kind])
            if kind in _SOURCES
            else None,
            mac=child(element, "mac", "address"),
            host_device=child(element, "target", "dev"),
            guest_device=child(element, "guest", "dev"),
            addresses=tuple(
                f"{attribute(ip, 'address')}/{attribute(ip, 'prefix')}"
                for ip in element.iterfind("ip")
            ),
            gateways=tuple(
                attribute(route, "gateway")
                for route in element.iterfind("route[@prefix='0']")
            ),
            up=child(element, "link", "state") == "up",
            nwfilter=child(element, "filterref", "filter"),
            mode=child(element, "source", "mode"),
            openvswitch_id=child(
                element, "virtualport/parameters", "interfaceid"
            ),
        )


@dataclass(frozen=True, slots=True)
class HostInterface:
    """A network device of the host that is moved into the container.

    It keeps its name, and libvirt sets nothing on it.

    :param device: its name.
    :raises DomainXmlError: if that is no name of a device.
    """

    device: str

    def __post_init__(self) -> None:
        check_match("host interface", self.device, _DEVICE, "a device name")

    def to_element(self) -> etree._Element:
        """``<hostdev>``."""
        element = etree.Element("hostdev", mode="capabilities", type="net")
        source = etree.SubElement(element, "source")
        etree.SubElement(source, "interface").text = self.device
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> HostInterface:
        """Read a network ``<hostdev>``."""
        return cls(text_at(element, "source/interface") or "")


def _address(text: str) -> str:
    what = "interface address"
    check_label(what, text)
    # Without a prefix libvirt would guess one from the address's class.
    if "/" not in text or "%" in text:
        refuse(what, text, "expected address/prefix, like 192.0.2.7/24")
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError as err:
        refuse(what, text, str(err))


def _gateways(texts: Sequence[str]) -> tuple[str, ...]:
    try:
        gateways = tuple(map(ipaddress.ip_address, texts))
    except ValueError as err:
        raise DomainXmlError(f"gateway: {err}") from None
    if len({gateway.version for gateway in gateways}) < len(gateways):
        refuse("gateways", texts, "only one of a family can be the default")
    return tuple(map(str, gateways))


def guest_devices(
    interfaces: Sequence[Interface | HostInterface],
) -> tuple[str, ...]:
    """The names that libvirt will give to interfaces in the container.

    Those without a name count up from ``eth0``, whatever names the others
    have (virLXCProcessSetupInterfaces).
    """
    unnamed = 0
    names = []
    for interface in interfaces:
        if isinstance(interface, HostInterface):
            names.append(interface.device)
        elif interface.guest_device is not None:
            names.append(interface.guest_device)
        else:
            names.append(f"eth{unnamed}")
            unnamed += 1
    return tuple(names)


def has_own_network(domain: etree._Element) -> bool:
    """Whether libvirt gives a ``<domain>`` a network namespace.

    What lxcNeedNetworkNamespace() looks for; one that is shared by
    ``<lxc:namespace>`` is not meant.
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
