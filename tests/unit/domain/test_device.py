# SPDX-License-Identifier: Apache-2.0
"""Devices of the host in domain XML, and where its root is from."""

import pytest
from lxml import etree

from lxc_userns.domain import device
from lxc_userns.domain.filesystem import read_root_source
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.spec.requirements import Device

DEVICES = (Device("/dev/fuse", "char"), Device("/dev/loop0", "block"))


def domain(*elements: etree._Element) -> etree._Element:
    made = etree.Element("domain")
    etree.SubElement(made, "devices").extend(elements)
    return made


def test_devices_are_read_as_they_were_written() -> None:
    network = etree.Element("hostdev", type="net")
    written = domain(network, *map(device.to_element, DEVICES))
    assert device.from_domain(written) == DEVICES
    assert [each.get("type") for each in written.iter("hostdev")] == [
        "net",
        "misc",
        "storage",
    ]


def test_device_that_is_none_is_refused() -> None:
    wrong = etree.Element("hostdev", type="usb")
    with pytest.raises(DomainXmlError, match="type 'usb': expected "):
        device.from_domain(domain(wrong))
    nowhere = etree.Element("hostdev", type="misc")
    with pytest.raises(DomainXmlError, match="<hostdev>: "):
        device.from_domain(domain(nowhere))


@pytest.mark.parametrize(
    ("target", "source"), [("/", "/srv/web"), ("/data", None)]
)
def test_root_is_from_the_filesystem_at_the_root(
    target: str, source: str | None
) -> None:
    xml = (
        "<domain type='lxc'><name>web</name><os><type>exe</type></os><devices>"
        "<filesystem type='mount'><source dir='/srv/web'/>"
        f"<target dir='{target}'/></filesystem></devices></domain>"
    )
    assert read_root_source(xml) == source
