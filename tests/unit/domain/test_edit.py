# SPDX-License-Identifier: Apache-2.0
"""ID maps for domain XML that somebody else made."""

import pytest
from hypothesis import given
from lxml import etree

from lxc_userns.domain import add_id_maps, edit, read_id_maps
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps
from tests.unit.domain import strategies
from tests.unit.domain.samples import DOCUMENTS, MAPS, PUNCHED_MAPS

#: As libvirt formats it, with all that an editor must not touch.
FOREIGN = """\
<?xml version='1.0' encoding='UTF-8'?>
<!-- managed by hand -->
<domain type='lxc' id='7' xmlns:x="urn:x">
  <name>a &amp; b</name>
  <memory   unit='KiB'>65536</memory>
  <x:own a='1>0' b="it's"><os/><idmap/></x:own>
  <os>
    <type arch='x86_64'>exe</type>
    <init>/sbin/init</init>
    <initenv name='A'><![CDATA[b]]></initenv>
  </os>
  <features>
    <acpi></acpi>
  </features>
  <devices>
    <!-- <interface/> -->
    <filesystem type='mount'>
      <source dir='/srv/r&#233;'/><target dir='/'/>
    </filesystem>
    <disk type='block'><source dev='/dev/sdb'/></disk>
    <console type='pty'/>
  </devices>
</domain>

<!-- the end -->
"""
IDMAP = """
  <idmap>
    <uid start="0" target="100000" count="65536"/>
    <gid start="0" target="100000" count="65536"/>
  </idmap>"""
INTERFACE = "<interface type='bridge'><source bridge='b'/></interface>"


def test_everything_else_is_kept() -> None:
    edited = add_id_maps(FOREIGN, MAPS)
    assert IDMAP in edited
    assert "\n    <privnet/>" in edited
    assert edited.replace(IDMAP, "").replace("\n    <privnet/>", "") == FOREIGN
    assert edited.index("</os>") < edited.index("<idmap>\n")
    assert edited.index("<features>\n    <privnet/>") > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<devices>", f"<devices>{INTERFACE}"),
        ("<features>", "<features><privnet/>"),
        ("<features>", "<features><privnet  ></privnet>"),
    ],
)
def test_network_of_its_own_is_enough(old: str, new: str) -> None:
    text = FOREIGN.replace(old, new, 1)
    assert add_id_maps(text, MAPS).replace(IDMAP, "") == text


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("", "\n  <features>\n    <privnet/>\n  </features>"),
        (
            "\n  <features/>",
            "\n  <features>\n    <privnet/>\n  </features>",
        ),
        (
            "\n  <features  a='/>' />",
            "\n  <features  a='/>' >\n    <privnet/>\n  </features>",
        ),
        (
            "\n  <features></features >",
            "\n  <features>\n    <privnet/></features >",
        ),
        (
            "\n  <features><pae/>\n</features>",
            "\n  <features>\n    <privnet/><pae/>\n</features>",
        ),
    ],
)
def test_where_privnet_goes(features: str, expected: str) -> None:
    before, _, rest = FOREIGN.partition("\n  <features>")
    after = rest.partition("</features>")[2]
    text = f"{before}{features}{after}"
    edited = add_id_maps(text, MAPS)
    assert edited == f"{before}{IDMAP}{expected}{after}"
    assert (
        etree.fromstring(edited.encode()).find("features/privnet") is not None
    )
    assert add_id_maps(edited, MAPS) == edited


@pytest.mark.parametrize(
    "old",
    [
        "<idmap/>",
        "<idmap></idmap>",
        "<idmap\n><uid start='0' target='1' count='2'/><!-- x --></idmap >",
        "<idmap><uid start='-1'/><other><idmap/></other></idmap>",
    ],
)
def test_old_maps_are_replaced_where_they_are(old: str) -> None:
    text = FOREIGN.replace("<devices>", f"{old}\n  <devices>")
    edited = add_id_maps(text, MAPS)
    wanted = FOREIGN.replace("<devices>", f"{IDMAP.strip()}\n  <devices>")
    # A comment stays, whatever it was in.
    for kept in ("\n    <privnet/>", "\n    <!-- x -->"):
        edited = edited.replace(kept, "")
    assert edited == wanted
    assert read_id_maps(edited) == MAPS


def test_nothing_shared_is_nothing() -> None:
    empty = SHARED.replace("<lxc:shareuts type='pid' value='1'/>", "")
    assert empty != SHARED
    text = FOREIGN.replace("<devices>", f"{empty}<devices>")
    assert add_id_maps(text, MAPS).replace(empty, "") == add_id_maps(
        FOREIGN, MAPS
    )


def test_maps_of_others_are_kept() -> None:
    other = "<idmap xmlns='urn:x'/>"
    text = FOREIGN.replace("<devices>", f"{other}<devices>")
    assert add_id_maps(text, MAPS).replace(other, "") == add_id_maps(
        FOREIGN, MAPS
    )


def test_of_several_old_maps_one_stays() -> None:
    # libvirt would take the entries of all of them.
    old = "\n  <idmap><uid start='0' target='1' count='2'/></idmap>"
    text = FOREIGN.replace("</os>", f"</os>{old}{old}")
    text = text.replace("\n</domain>", f"{old}\n</domain>")
    assert add_id_maps(text, MAPS) == add_id_maps(FOREIGN, MAPS)


@pytest.mark.parametrize(
    "features", ["", "<features/>", "<features></features>"]
)
def test_several_old_maps_and_no_network(features: str) -> None:
    """A network of its own is asked for once, whatever was there."""
    old = "<idmap><uid start='0' target='1' count='2'/></idmap>"
    bare = FOREIGN[: FOREIGN.index("  <features>")]
    bare += f"  {features}" + FOREIGN[FOREIGN.index("</features>") + 11 :]
    text = bare.replace("</os>", f"</os>{old}{old}")
    edited = add_id_maps(text, MAPS)
    assert edited.count("<idmap>") == 1 + FOREIGN.count("<idmap>")
    assert edited.count("<privnet/>") == 1
    assert read_id_maps(edited) == MAPS
    assert add_id_maps(edited, MAPS) == edited


def test_what_is_as_wanted_stays_byte_for_byte() -> None:
    """libvirt writes other quotes, and somebody may comment on them."""
    theirs = (
        "<idmap>\n    <!-- ours -->\n"
        "    <gid start='0' target='100000' count='65536'/>\n"
        "    <uid  count='65536' start='0'\ttarget='100000'></uid></idmap>"
    )
    text = FOREIGN.replace("<devices>", f"{theirs}\n  <devices>{INTERFACE}")
    assert add_id_maps(text, MAPS) == text
    other = text.replace("target='100000'", "target='100001'")
    assert add_id_maps(other, MAPS) != other


def test_other_maps_replace_ours() -> None:
    edited = add_id_maps(add_id_maps(FOREIGN, PUNCHED_MAPS), MAPS)
    assert edited == add_id_maps(FOREIGN, MAPS)


@given(made=strategies.documents, id_maps=strategies.id_maps)
def test_once_is_enough(made: strategies.Document, id_maps: IdMaps) -> None:
    try:
        edited = add_id_maps(made.text, id_maps)
    except DomainXmlError:
        return
    assert add_id_maps(edited, id_maps) == edited
    found = read_id_maps(edited)
    assert found is not None
    assert sorted(found.uid) == list(found.uid) == sorted(id_maps.uid)
    assert sorted(found.gid) == list(found.gid) == sorted(id_maps.gid)


@pytest.mark.parametrize("name", ["busybox", "debian", "private", "volumes"])
def test_where_libvirt_has_them(name: str) -> None:
    text = DOCUMENTS[name]
    id_maps = read_id_maps(text)
    assert id_maps is not None
    plain = "".join(
        line
        for line in text.splitlines(keepends=True)
        if not line.strip().startswith(("<idmap", "</idmap", "<uid", "<gid"))
    )
    assert add_id_maps(plain, id_maps) == text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("unit", ["  ", "\t", "    ", ""])
def test_layout_is_that_of_the_document(newline: str, unit: str) -> None:
    text = FOREIGN.replace("  ", unit).replace("\n", newline)
    added = IDMAP.replace("  ", unit or "  ").replace("\n", newline)
    assert added in add_id_maps(text, MAPS)


def test_one_line_stays_one_line() -> None:
    text = "".join(line.strip() for line in FOREIGN.splitlines())
    edited = add_id_maps(text, MAPS)
    assert "\n" not in edited
    assert read_id_maps(edited) == MAPS


def test_byte_order_mark() -> None:
    text = f"\ufeff{FOREIGN.partition('?>')[2].strip()}"
    assert add_id_maps(text, MAPS).startswith("\ufeff<!-- managed")


FILE = (
    "<filesystem type='file'><source file='/a'/><target dir='/b'/>"
    "</filesystem>"
)
READONLY = (
    "<filesystem><source dir='/a'/><target dir='/b'/><readonly/></filesystem>"
)
SOURCE = "<source dir='/srv/r&#233;'/>"
ROOT = "<filesystem><source dir='/'/><target dir='/'/></filesystem>"
SHARED = (
    "<lxc:namespace xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>"
    "<lxc:shareuts type='pid' value='1'/></lxc:namespace>"
)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("dir='/'", "dir='//'", r"no filesystem has the target '/' \(exact"),
        ("<target dir='/'/>", "", "no filesystem has the target '/'"),
        ("<devices>", f"<devices>{ROOT}", "several filesystems"),
        *(
            (SOURCE, f"<source dir='{path}'/>", "container's root would be th")
            for path in ("/", "//", "/./", "/srv/..", "/../srv/../")
        ),
        (SOURCE, "<source dir='srv'/>", "'srv' is not an absolute path"),
        (SOURCE, "<source dir=''/>", "root filesystem has no source"),
        (SOURCE, "<source file='/srv/r'/>", "root filesystem has no source"),
        (SOURCE, "", "root filesystem has no source"),
        (
            "<devices>",
            f"<devices>{FILE}",
            "'/b' of type 'file' cannot be moun",
        ),
        ("<devices>", f"<devices>{READONLY}", "'/b' would be writable, as li"),
        ("type='mount'", "type='block'", "filesystem '/' of type 'block' can"),
        ("type='mount'", "type='volume'", "filesystem '/' of type 'volume'"),
        ("type='mount'", "type='ram'", "root filesystem cannot be of type"),
        ("<devices>", f"{SHARED}<devices>", "it shares namespaces"),
        ("<![CDATA[b]]>", "a&lt;b", "environment variable A 'a<b'"),
        ("<![CDATA[b]]>", "<![CDATA[<b>]]>", "environment variable A '<b>'"),
        ("<![CDATA[b]]>", "<!-- <b/> -->c", "environment variable A '': "),
        ("<![CDATA[b]]>", "", "environment variable A ''"),
        ("name='A'", "", "<initenv>: has no name"),
        ("name='A'", "name='&#10;'", r"environment variable '\\n': has a con"),
    ],
)
def test_refused(old: str, new: str, reason: str) -> None:
    assert old in FOREIGN
    with pytest.raises(DomainXmlError, match=reason) as caught:
        add_id_maps(FOREIGN.replace(old, new, 1), MAPS)
    assert "\n" not in str(caught.value)


def test_all_reasons_at_once() -> None:
    text = FOREIGN.replace("dir='/'", "dir='/a'")
    text = text.replace("<devices>", f"{SHARED}<devices>{FILE}")
    with pytest.raises(DomainXmlError) as caught:
        add_id_maps(text, MAPS)
    for reason in ("target '/'", "of type 'file'", "it shares namespaces"):
        assert reason in str(caught.value)


def test_what_was_edited_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two parsers work on the text; a difference must not pass.
    monkeypatch.setattr(edit, "_edit", lambda data, *_, **__: data)
    with pytest.raises(DomainXmlError, match="cannot be edited"):
        add_id_maps(FOREIGN, MAPS)
