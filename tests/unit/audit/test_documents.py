# SPDX-License-Identifier: Apache-2.0
"""Whole documents: of others, of ours, and what is refused."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from lxml import etree

from lxc_userns.audit import Finding, Severity, audit_domain
from lxc_userns.containers import ContainerSpec
from lxc_userns.domain import add_id_maps
from lxc_userns.domain.document import parse_domain
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.spec.requirements import DROPPED_PRIVATE
from lxc_userns.spec.strategy import Strategy
from tests.unit.audit.documents import NOVA, VIRSH, VIRT_MANAGER, domain
from tests.unit.domain.samples import DOCUMENTS, MAPS
from tests.unit.domain.strategies import Document, documents


def brief(findings: list[Finding]) -> list[tuple[str, str, str, int | None]]:
    return [
        (str(each.severity), each.code, each.xpath, each.line)
        for each in findings
    ]


def test_virsh() -> None:
    assert brief(audit_domain(VIRSH)) == [
        (
            *("WARN", "writable-host-path"),
            *("/domain/devices/filesystem[2]", 37),
        )
    ]


def test_virt_manager() -> None:
    assert brief(audit_domain(VIRT_MANAGER)) == [
        ("CRITICAL", "no-idmap", "/domain", 2),
        ("HIGH", "host-device", "/domain/devices/hostdev", 32),
        ("WARN", "no-seclabel", "/domain", 2),
    ]


def test_nova() -> None:
    assert brief(audit_domain(NOVA)) == [
        ("CRITICAL", "host-network", "/domain", 1),
        ("ERROR", "idmap-refused", "/domain/idmap", 31),
        ("HIGH", "idmap-low-host-ids", "/domain/idmap/uid", 32),
        ("WARN", "no-seclabel", "/domain", 1),
        ("WARN", "idmap-few-ids", "/domain/idmap", 31),
    ]


def test_container_run_has_no_serious_finding() -> None:
    """One is left: nothing asks for SELinux or AppArmor.

    Whether the host has either is the host's to know, and libvirt confines
    by default where it does.
    """
    id_map = IdMap.parse("0:2013265920:65536")
    record = InstanceRecord(
        name="web",
        uuid="3e3fce45-4f53-4fa7-bb32-11f34168b82b",
        rootfs="/srv/web",
        id_maps=IdMaps(id_map, id_map),
        strategy=Strategy.IDMAPPED,
        view="/run/lxc-userns/web/root",
        dropped=tuple(DROPPED_PRIVATE),
    )
    spec = ContainerSpec("web", "/srv/web")
    found = audit_domain(spec.to_xml(PreparedInstance(record)))
    assert brief(found) == [("WARN", "no-seclabel", "/domain", 1)]


BILLION = """<!DOCTYPE domain [<!ENTITY a "{}">]>
<domain type='lxc'><name>&a;</name><os><type>exe</type></os></domain>"""


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "no element found"),
        ("<domain type='lxc'>", "no element found"),
        ("<domain type='kvm'/>", "domain XML: type 'kvm'"),
        ("<domain/>", "domain XML: type None"),
        ("<network/>", "root element 'network'"),
        ("<domain type='lxc'/>", "type of operating system None"),
        (
            "<domain type='lxc'><os><type>hvm</type></os></domain>",
            "type of operating system 'hvm'",
        ),
        (BILLION.format("ha" * 1000), "has a document type"),
        (
            '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;">'
            '<!ENTITY c "&b;&b;&b;&b;&b;">]><domain>&c;</domain>',
            "has a document type",
        ),
        (
            '<!DOCTYPE d SYSTEM "file:///etc/passwd"><domain/>',
            "has a document type",
        ),
        (
            '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
            "<domain>&x;</domain>",
            "has a document type",
        ),
        ("<domain type='lxc'>&x;</domain>", "undefined entity"),
        ("<domain>" + "x" * 5_000_000 + "</domain>", "libvirt takes at most"),
    ],
)
def test_refused(xml: str, message: str) -> None:
    with pytest.raises(DomainXmlError, match=message):
        audit_domain(xml)


def test_a_document_type_is_never_expanded() -> None:
    with pytest.raises(DomainXmlError) as caught:
        audit_domain(BILLION.format("secret"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_samples(name: str) -> None:
    # Whether a finding names an element that is there.
    xml = DOCUMENTS[name].encode()
    root = etree.fromstring(xml)
    for finding in audit_domain(DOCUMENTS[name]):
        check_place(root, finding)


@given(documents)
def test_domains_of_others(one: Document) -> None:
    root = parse_domain(one.text)
    found = audit_domain(one.text)
    for finding in found:
        check_place(root, finding)
    codes = {each.code for each in found}
    assert ("no-idmap" in codes) == (not root.findall("idmap/*"))


@given(documents)
def test_what_takes_id_maps_has_them(one: Document) -> None:
    try:
        edited = add_id_maps(one.text, MAPS)
    except DomainXmlError:
        return
    codes = {each.code for each in audit_domain(edited)}
    never = {"idmap-host-root", "filesystem-refused", "sharing-refused"}
    assert codes.isdisjoint({*never, "host-network", "init-unmapped"})
    assert "no-idmap" not in codes


def check_place(root: etree._Element, finding: Finding) -> None:
    spaces = {"lxc": "http://libvirt.org/schemas/domain/lxc/1.0"}
    place = cast(
        "list[etree._Element]", root.xpath(finding.xpath, namespaces=spaces)
    )
    (element,) = place
    assert root.getroottree().getpath(element) == finding.xpath
    assert cast("int | None", element.sourceline) == finding.line
    assert finding.message
    assert finding.severity in Severity


def test_places_are_those_of_libxml2() -> None:
    xml = domain(
        features="<capabilities xmlns='urn:other' policy='allow'/><a/>"
        "<x:capabilities xmlns:x='urn:x' policy='allow'/>"
        "<capabilities policy='allow'/><!-- no element -->"
        "<capabilities policy='allow'/>",
    )
    root = etree.fromstring(xml)
    expected = [
        root.getroottree().getpath(each)
        for each in root.iterfind("features/*")
        if etree.QName(each).localname == "capabilities"
    ]
    assert expected[0] == "/domain/features/*[1]"
    found = audit_domain(xml)
    assert [
        each.xpath for each in found if each.code == "capabilities-allowed"
    ] == expected


def test_a_large_document_takes_no_ages() -> None:
    fields = "".join(
        f"<uid start='{n}' target='{n}' count='9'/>" for n in range(9000)
    )
    devices = "<filesystem><source dir='/etc'/></filesystem>" * 9000
    found = audit_domain(
        domain(idmap=f"<idmap>{fields}</idmap>", devices=devices)
    )
    assert found[-1].xpath == "/domain/devices/filesystem[9001]"
