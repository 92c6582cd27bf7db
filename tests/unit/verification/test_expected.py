# SPDX-License-Identifier: Apache-2.0
"""Expectations of a record, and of the XML of others."""

from dataclasses import replace

import pytest

from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED,
    DROPPED_PRIVATE,
    Device,
    Requirements,
)
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from lxc_userns.verification import (
    Expectation,
    View,
    expected,
)
from tests.unit.verification.observation import (
    HOST,
    ID_MAP,
    PRIVATE,
    RECORD,
)


def test_what_a_record_promises() -> None:
    assert expected.of_record(RECORD, "") == PRIVATE
    outside = replace(
        RECORD,
        id_maps=None,
        strategy=Strategy.BIND,
        needs=Requirements("host", ("ipc",), ("mknod",), ("/dev/fuse",)),
        devices=(Device("/dev/fuse", "char"),),
    )
    kept = replace(RECORD, needs=Requirements("private", (), ("sys_rawio",)))
    kept = replace(kept, dropped=("sys_resource",))
    assert expected.of_record(kept, "").capabilities == (
        PRIVATE.capabilities | DROPPED_PRIVATE
    )
    assert expected.of_record(outside, "") == replace(
        HOST,
        shared=frozenset({"ipc"}),
        capabilities=HOST.capabilities | {"mknod"},
        devices=outside.devices,
    )


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [("idmapped", "idmapped"), ("overlay", "overlay"), ("chown", "plain")],
)
def test_views_of_a_record(strategy: str, kind: str) -> None:
    record = replace(
        RECORD,
        strategy=Strategy(strategy),
        volumes=(
            Volume("/srv/a", "/a"),
            Volume("/srv/b", "/b", "none", readonly=True),
            Volume("/srv/c", "/c", "chown", nosuid=False, nodev=False),
        ),
    )
    views = [
        (each.target, each.kind, {*each.flags})
        for each in expected.of_record(record, "").views
    ]
    assert views == [
        ("/", kind, {"nodev"}),
        ("/a", "idmapped", {"nosuid", "nodev"}),
        ("/b", "plain", {"ro", "nosuid", "nodev"}),
        ("/c", "plain", set()),
    ]


XML = """\
<domain type='lxc' xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>
  <name>other</name>
  <memory unit='KiB'>262143</memory>
  <os><type>exe</type><init>/bin/sh</init></os>
  {more}
  <devices>{devices}
    <filesystem type='mount'>
      <source dir='/srv/other/'/><target dir='/'/>
    </filesystem>
    <filesystem type='ram'>
      <source usage='10'/><target dir='/tmp'/>
    </filesystem>
  </devices>
  {last}
</domain>
"""
ID_MAP_XML = (
    "<idmap><uid start='0' target='{0}' count='65536'/>"
    "<gid start='0' target='{0}' count='65536'/></idmap>"
)


def promised(more: str = "", devices: str = "", last: str = "") -> Expectation:
    text = XML.format(more=more, devices=devices, last=last)
    return expected.of_domain(text)


def test_what_the_xml_of_others_promises() -> None:
    found = promised(
        ID_MAP_XML.format(100000) + "<features><privnet/></features>"
    )
    assert found == Expectation(
        "other",
        IdMaps(ID_MAP, ID_MAP),
        frozenset(),
        frozenset({*CAPABILITIES} - DROPPED),
        (),
        (View("/", "/srv/other"),),
    )


@pytest.mark.parametrize(
    ("devices", "last", "shared"),
    [
        ("", "", {"network"}),
        ("<interface type='ethernet'/>", "", set()),
        (
            "<hostdev mode='capabilities' type='net'><source>"
            "<interface>eth1</interface></source></hostdev>",
            "",
            set(),
        ),
        (
            "<interface type='ethernet'/>",
            "<lxc:namespace><lxc:shareipc type='pid' value='1'/>"
            "<lxc:shareuts type='pid' value='1'/>"
            "<lxc:sharenet type='netns' value='red'/></lxc:namespace>",
            {"network", "ipc", "uts"},
        ),
    ],
)
def test_what_the_xml_of_others_shares(
    devices: str, last: str, shared: set[str]
) -> None:
    assert promised("", devices, last).shared == shared


@pytest.mark.parametrize(
    ("capabilities", "has", "lacks"),
    [
        ("<capabilities policy='allow'/>", {"mknod"}, set()),
        ("<capabilities policy='deny'/>", set(), {"chown"}),
        (
            "<capabilities policy='default'><mknod state='on'/>"
            "<chown state='off'/></capabilities>",
            {"mknod", "kill"},
            {"chown", "sys_time"},
        ),
    ],
)
def test_capabilities_in_the_xml_of_others(
    capabilities: str, has: set[str], lacks: set[str]
) -> None:
    found = promised(f"<features>{capabilities}</features>").capabilities
    assert has <= found
    assert not lacks & found


@pytest.mark.parametrize("name", ["x y", "../null", "null"])
def test_a_disk_of_others_that_breaks_a_rule(name: str) -> None:
    disk = f"<disk type='block'><target dev='{name}'/></disk>"
    with pytest.raises(DomainXmlError, match="<disk>: device"):
        promised("", disk)


def test_xml_of_others_that_breaks_a_rule() -> None:
    with pytest.raises(DomainXmlError, match="host ID 0"):
        promised(ID_MAP_XML.format(0))
