# SPDX-License-Identifier: Apache-2.0
"""Addresses and routes of an interface, as users write them."""

import pytest
from lxml import etree

from lxc_userns.domain import (
    Interface,
    read_bridges,
    read_network_names,
    read_networks,
)
from lxc_userns.exceptions import DomainXmlError

DOMAIN = """\
<domain type='lxc'><name>web</name><os><type>exe</type></os><devices>
<interface type='bridge'><mac address='52:54:00:AA:00:01'/>
<source bridge='br0'/></interface>
<interface type='network'><mac address='52:54:00:aa:00:02'/>
<source network='default'/></interface>
<interface type='direct'><mac address='52:54:00:aa:00:03'/></interface>
<interface type='direct'/>
</devices></domain>
"""


def test_an_interface_with_addresses() -> None:
    text = (
        "bridge:br0,address=192.0.2.10/24,gateway=192.0.2.1,"
        "address=2001:db8::a/64,gateway=2001:DB8::1"
    )
    element = Interface.parse(text).to_element()
    assert etree.tostring(element).decode() == (
        '<interface type="bridge"><source bridge="br0"/>'
        '<ip address="192.0.2.10" family="ipv4" prefix="24"/>'
        '<ip address="2001:db8::a" family="ipv6" prefix="64"/>'
        '<route family="ipv4" address="0.0.0.0" prefix="0" '
        'gateway="192.0.2.1"/>'
        '<route family="ipv6" address="::" prefix="0" '
        'gateway="2001:db8::1"/><link state="up"/></interface>'
    )
    assert Interface.parse("network:default") == Interface.network("default")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("address=192.0.2.10", "expected an IP address and the length"),
        ("address=192.0.2.10/33", "expected an IP address and the length"),
        ("address=", "expected an IP address and the length"),
        ("gateway=192.0.2.1", "of a family of which there is no address"),
        ("address=192.0.2.2/24,gateway=::1", "of a family of which"),
        ("address=192.0.2.2/24,gateway=x", "gateway 'x': expected an IP"),
        ("mac=1", "expected address=IP/N or gateway=IP"),
        ("address", "expected address=IP/N or gateway=IP"),
        ("", "expected address=IP/N or gateway=IP"),
    ],
)
def test_what_is_refused(options: str, reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        Interface.parse(f"bridge:br0,{options}")


def test_what_a_domain_is_attached_to() -> None:
    assert read_networks(DOMAIN) == {
        "52:54:00:aa:00:01": "bridge:br0",
        "52:54:00:aa:00:02": "network:default",
        "52:54:00:aa:00:03": "direct",
    }
    assert read_bridges(DOMAIN) == ("br0",)
    assert read_network_names(DOMAIN) == ("default",)
