# SPDX-License-Identifier: Apache-2.0
"""Reading ID maps, metadata and whole domains."""

import pytest
from hypothesis import given

from lxc_userns.domain import Domain, read_id_maps, read_metadata
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps
from tests.unit.domain import strategies
from tests.unit.domain.samples import MAPS, PUNCHED_MAPS, SAMPLES

UID = "<uid start='0' target='100000' count='65536'/>"
GID = "<gid start='0' target='100000' count='65536'/>"


def with_idmap(inside: str) -> str:
    return (
        "<domain type='lxc'><os><type>exe</type></os>"
        f"<idmap>{inside}</idmap></domain>"
    )


@given(strategies.id_maps)
def test_id_maps_come_back(id_maps: IdMaps) -> None:
    inside = [
        f"<{kind} count='{e.count}' start='{e.guest}' target='{e.host}' />"
        for kind, id_map in (("uid", id_maps.uid), ("gid", id_maps.gid))
        for e in id_map
    ]
    assert read_id_maps(with_idmap("\n".join(inside))) == id_maps


def test_entries_are_written_by_guest_id() -> None:
    text = SAMPLES["debian"].to_xml()
    found = read_id_maps(text)
    assert found is not None
    assert [entry.guest for entry in found.uid] == [0, 1000]
    assert sorted(PUNCHED_MAPS.uid) == list(found.uid)


def test_no_id_maps() -> None:
    assert read_id_maps(SAMPLES["host-mode"].to_xml()) is None


@pytest.mark.parametrize(
    "inside",
    [UID + GID, GID + UID, f"<!-- a -->\n{UID}<?b?>{GID}<!-- c -->"],
)
def test_forms_of_id_maps(inside: str) -> None:
    assert read_id_maps(with_idmap(inside)) == MAPS


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("", "no <uid> entry; .* starts no user namespace"),
        (UID, "no <gid> entry"),
        (GID, "no <uid> entry"),
        (f"{UID}<!-- {GID} -->", "no <gid> entry"),
        (UID + GID + "<pid/>", "<idmap>: 'pid' is neither uid nor gid"),
        (
            UID + GID + "<x:uid xmlns:x='a&#10;b'/>",
            "not a valid URI, line 1, col",
        ),
        (UID + GID + "<x:uid xmlns:x='urn:x'/>", "is neither uid nor"),
        (GID + "<uid target='1' count='2'/>", "<uid> has no start"),
        (GID + "<uid start='0' count='2'/>", "<uid> has no target"),
        (GID + "<uid start='0' target='1'/>", "<uid> has no count"),
        (GID + UID.replace("'0'", "''"), "<idmap>: uid start '': expected"),
        (GID + UID.replace("'0'", "'-0'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", "'+0'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", "' 0'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", "'0x0'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", "'00'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", "'\u0660'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", "'0:1'"), "uid start .* expected a dec"),
        (GID + UID.replace("'0'", f"'{'9' * 99999}'"), r"\(100001 charact"),
        (GID + UID.replace("'0'", "'&#10;0'"), r"'\\n0': expected a dec"),
        (GID + UID.replace("65536", "0"), "count is 0"),
        (GID + UID.replace("65536", "4294967295"), "the highest ID is"),
        (GID + UID.replace("100000", "0"), "maps to host ID 0"),
        (GID + UID.replace("'0'", "'1'"), "guest ID 0 is not mapped"),
        (GID + UID + UID, "guest IDs of .* overlap"),
        (UID + GID.replace("65536", "5"), r"guest group 5 \(tty\)"),
        (
            GID + "".join(UID.replace("'0'", f"'{n}'") for n in range(6)),
            "6 entries, 1 to 5 are allowed",
        ),
    ],
)
def test_bad_id_maps(inside: str, reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        read_id_maps(with_idmap(inside))
    assert "\n" not in str(caught.value)


def test_two_idmaps() -> None:
    text = with_idmap(UID + GID)
    text = text.replace("</domain>", f"<idmap>{UID}</idmap></domain>")
    with pytest.raises(DomainXmlError, match="has 2 <idmap>, one is expec"):
        read_id_maps(text)


def test_foreign_idmap_is_none() -> None:
    text = with_idmap(UID).replace("<idmap>", "<idmap xmlns='urn:x'>")
    assert read_id_maps(text) is None


def test_metadata() -> None:
    debian = SAMPLES["debian"]
    text = debian.to_xml()
    assert read_metadata(text) == debian.metadata
    other = "<metadata><o:a xmlns:o='urn:o'><o:item name='x'/></o:a>"
    assert read_metadata(text.replace("<metadata>", other)) == debian.metadata
    assert read_metadata(SAMPLES["private"].to_xml()) == {}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name="mode"', 'name="rootfs"', "metadata 'rootfs' is there twice"),
        ('name="mode"', "", "item> has no name"),
        (">private</lxc", "><a/></lxc", "has more in it than text"),
    ],
)
def test_bad_metadata(old: str, new: str, reason: str) -> None:
    text = SAMPLES["debian"].to_xml()
    assert old in text
    with pytest.raises(DomainXmlError, match=reason):
        read_metadata(text.replace(old, new))


@pytest.mark.parametrize(
    ("sample", "old", "new", "reason"),
    [
        ("private", "<memory", "<maxmemory", "mismatched tag"),
        ("private", "<vcpu>1</vcpu>", "", "domain XML: has no <vcpu>"),
        ("private", "64</memory>", "</memory>", "<memory> '': expected a num"),
        ("private", "64</memory>", "-64</memory>", "<memory> '-64'"),
        ("private", '"MiB">64', '"b">64', "64 bytes are no whole KiB"),
        ("private", '"MiB">64', '"KiB">64', "64 KiB are no whole MiB"),
        ("private", '"MiB"', '"acre"', "<memory>: unknown unit 'acre'"),
        ("private", "1</vcpu>", "one</vcpu>", "<vcpu> 'one': expected a num"),
        ("private", "/sbin/init", "<a/>", "<init> has more in it than text"),
        ("private", "<init>/sbin/init</init>", "", "<os> has no <init>"),
        ("private", "<name>private</name>", "", "domain name ''"),
        ("private", "private<", "a<!-- -->b<", "<name> has more in it than"),
        ("private", 'dir="/"', 'dir="/root"', "no filesystem has the target"),
        ("private", 'type="mount"', 'type="volume"', "filesystem type 'volu"),
        ("private", "<privnet/>", "", "needs a network namespace"),
        ("volumes", 'usage="1000"', "", "<source> has no usage"),
        ("volumes", '<source dir="/data/b"/>', "", "has no <source>"),
        ("interfaces", 'type="bridge"', 'type="user"', "interface type 'user"),
        ("interfaces", ' prefix="24"', "", "<ip> has no prefix"),
        ("tuned", 'state="on"', 'state="yes"', "state of a capability 'yes'"),
        ("tuned", "<chown ", "<bpf ", "capability 'bpf': expected one of"),
        ("tuned", ' model="apparmor"', "", "<seclabel> has no model"),
        ("tuned", "512</shares>", "1e3</shares>", "<shares> '1e3': expected"),
        ("shared", ' value="blue"', "", "sharenet> has no value"),
    ],
)
def test_no_domain_of_ours(
    sample: str, old: str, new: str, reason: str
) -> None:
    text = SAMPLES[sample].to_xml()
    assert old in text
    with pytest.raises(DomainXmlError, match=reason) as caught:
        Domain.from_xml(text.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"MiB">64', '"KiB">65536'),
        (' unit="MiB">64', ">65536"),
        ('"MiB">64', '"b">67108864'),
        ('"MiB">64', '"bytes">67108864'),
        ('"MiB">64', '"m"> 64 '),
    ],
)
def test_units_of_memory(old: str, new: str) -> None:
    text = SAMPLES["private"].to_xml()
    assert old in text
    assert Domain.from_xml(text.replace(old, new)).memory_mib == 64


def test_units_of_ten() -> None:
    text = SAMPLES["private"].to_xml()
    text = text.replace('"MiB">64', '"KB">1048576')
    assert Domain.from_xml(text).memory_mib == 1000


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("", ("loop", "raw")),
        ("<driver/>", ("loop", "raw")),
        ("<driver format='qcow2'/>", ("nbd", "qcow2")),
        ("<driver type='nbd'/>", ("nbd", "raw")),
    ],
)
def test_drivers_that_libvirt_takes(
    driver: str, expected: tuple[str, str]
) -> None:
    text = SAMPLES["images"].to_xml()
    old = '<driver type="loop" format="raw"/>'
    assert old in text
    root = Domain.from_xml(text.replace(old, driver)).filesystems[0]
    assert (root.driver, root.format) == expected
