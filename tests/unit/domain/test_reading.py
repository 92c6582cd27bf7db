# SPDX-License-Identifier: Apache-2.0
"""Reading ID maps."""

import pytest
from hypothesis import given

from lxc_userns.domain import maps_root, read_id_maps
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps
from tests.unit.domain import strategies
from tests.unit.domain.samples import DOCUMENTS, MAPS, PUNCHED_MAPS

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
    found = read_id_maps(DOCUMENTS["debian"])
    assert found is not None
    assert [entry.guest for entry in found.uid] == [0, 1000]
    assert sorted(PUNCHED_MAPS.uid) == list(found.uid)


def test_no_id_maps() -> None:
    assert read_id_maps(DOCUMENTS["host-mode"]) is None


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
        (UID + GID + "<pid/>", "<idmap>: element 'pid': expected uid or gid"),
        (
            UID + GID + "<x:uid xmlns:x='a&#10;b'/>",
            "not a valid URI, line 1, col",
        ),
        (UID + GID + "<x:uid xmlns:x='urn:x'/>", "expected uid or"),
        (GID + "<uid target='1' count='2'/>", "<uid>: has no start"),
        (GID + "<uid start='0' count='2'/>", "<uid>: has no target"),
        (GID + "<uid start='0' target='1'/>", "<uid>: has no count"),
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
    with pytest.raises(DomainXmlError, match="2 <idmap> elements: expec"):
        read_id_maps(text)


def test_foreign_idmap_is_none() -> None:
    text = with_idmap(UID).replace("<idmap>", "<idmap xmlns='urn:x'>")
    assert read_id_maps(text) is None


def maps_of(*targets: str) -> str:
    rows = "".join(
        f"<{kind} start='0' target='{target}' count='10'/>"
        for target in targets
        for kind in ("uid", "gid")
    )
    return with_idmap(rows)


@pytest.mark.parametrize(
    ("domain_xml", "expected"),
    [
        (maps_of("100000"), True),
        (maps_of("0"), False),
        (maps_of("100000", "0"), False),
        (maps_of(), False),
        # In a comment, or of somebody else.
        (with_idmap(f"<!-- {UID} {GID} -->"), False),
        (with_idmap(UID).replace("<idmap>", "<idmap xmlns='urn:x'>"), False),
    ],
)
def test_whose_root_is_not_the_hosts(domain_xml: str, expected: bool) -> None:
    assert maps_root(domain_xml) == expected
