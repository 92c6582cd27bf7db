# SPDX-License-Identifier: Apache-2.0
"""Prepared instances put into their domains, whatever was requested."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lxml import etree

from lxc_userns.domain import (
    idmaps,
    read_id_maps,
    read_marker,
    read_root_source,
)
from lxc_userns.domain.document import parse_domain
from lxc_userns.domain.filesystem import source_of, target_of
from lxc_userns.exceptions import DomainConflictError
from lxc_userns.instances.prepared import PreparedInstance
from tests.unit.domain.outside import outside
from tests.unit.domain.samples import SCHEMA, needs_schema
from tests.unit.instances import strategies

BARE = """\
<?xml version="1.0" encoding="{encoding}"?>
<!-- a --><domain type='lxc'>
  <name><![CDATA[web]]></name>
  <title>&#233;\N{GREEK SMALL LETTER ALPHA} &lt;</title>
  <memory>65536</memory>
  <x:a xmlns:x='urn:x' b='>'><![CDATA[<idmap/>]]></x:a>
  <os><type>exe</type><init>/sbin/init</init></os>
  <devices>{devices}
    <console type='pty'/>
  </devices>
</domain>
"""


def described(prepared: PreparedInstance) -> str:
    """Return its filesystems as a service would write them by hand."""
    return "".join(
        f"\n    <filesystem type='mount'><source dir='{each.origins[0]}'/>"
        f"<target dir='{each.target}'/></filesystem>"
        for each in prepared.filesystems
    )


@given(
    prepared=strategies.prepared,
    encoding=st.sampled_from(["UTF-8", "utf-16", "ISO-8859-1", "ascii"]),
    by_hand=st.booleans(),
)
def test_everything_is_put_in(
    prepared: PreparedInstance, encoding: str, by_hand: bool
) -> None:
    """And nothing else is changed, in whatever encoding it says to be."""
    devices = described(prepared) if by_hand else ""
    text = BARE.format(encoding=encoding, devices=devices)
    applied = prepared.apply_to(text)
    assert prepared.apply_to(applied) == applied
    parts = prepared.parts
    assert outside(applied, text, parts) == outside(text, text, parts)
    domain = parse_domain(applied)
    assert has_id_maps(applied, prepared)
    assert read_marker(applied) == parts.marker
    assert read_root_source(applied) == prepared.root
    mounted = {
        (source_of(each), target_of(each))
        for each in domain.iterfind("devices/filesystem[@type='mount']")
    }
    assert mounted == {
        (each.source, each.target) for each in prepared.filesystems
    }
    given_to_it = {
        str(each.findtext(f"source/{kind}"))
        for kind in ("char", "block")
        for each in domain.iterfind(f"devices/hostdev/source/{kind}/../..")
    }
    assert given_to_it == {each.path for each in prepared.devices}
    assert (domain.find("features/privnet") is not None) == (
        prepared.needs_private_network
    )


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(file=str(SCHEMA))


@needs_schema
@given(prepared=strategies.prepared)
def test_libvirt_takes_it(
    schema: etree.RelaxNG, prepared: PreparedInstance
) -> None:
    text = BARE.format(encoding="UTF-8", devices="")
    foreign = text[text.index("  <x:a") : text.index("  <os>")]
    applied = prepared.apply_to(text.replace(foreign, ""))
    schema.assertValid(parse_domain(applied))


@given(prepared=strategies.prepared, other=strategies.prepared)
def test_what_contradicts_is_refused(
    prepared: PreparedInstance, other: PreparedInstance
) -> None:
    """A domain of other ID maps is no instance's."""
    text = other.apply_to(BARE.format(encoding="UTF-8", devices=""))
    assume(other.id_maps is not None and not has_id_maps(text, prepared))
    with pytest.raises(DomainConflictError, match="<idmap> ") as caught:
        prepared.apply_to(text)
    assert caught.value.name == "web"


def has_id_maps(text: str, prepared: PreparedInstance) -> bool:
    """Return whether a domain has the ID maps of an instance, or none."""
    found = read_id_maps(text)
    if prepared.id_maps is None or found is None:
        return found is prepared.id_maps
    return idmaps.have_same_entries(prepared.id_maps, found)
