# SPDX-License-Identifier: Apache-2.0
"""Domain XML that no one vouches for."""

from collections.abc import Callable
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns import domain
from lxc_userns.audit import audit_domain
from lxc_userns.exceptions import DomainConflictError, DomainXmlError
from lxc_userns.idmap import IdMaps
from lxc_userns.verification import expected
from tests.fuzz.mutation import mutated
from tests.unit.domain.samples import DOCUMENTS, promise
from tests.unit.domain.strategies import id_maps

_SEEDS = [each.encode() for each in DOCUMENTS.values()]
_SEEDS += [
    b"<domain type='lxc'><name>a</name><memory>65536</memory><os><type>exe"
    b"</type><init>/init</init></os><devices><filesystem><source dir='/a'/>"
    b"<target dir='/'/></filesystem></devices></domain>",
]
_TOKENS = [
    b"<!-- x -->", b"<?x y?>", b"<![CDATA[<idmap/>]]>", b"<!DOCTYPE x>",
    b"<?xml version='1.0' encoding='utf-16'?>", b"&#65;", b"&lt;", b"&x;",
    b"<idmap/>", b"<idmap><uid start='0' target='1' count='9'/></idmap>",
    b"<features/>", b"<features><privnet/></features>", b"<os/>", b"<x:os/>",
    b"<devices/>", b" xmlns:x='u'", b" xmlns='u'", b"</domain>", b"'", b'"',
    b">", b"\r\n", b"\r", b"<interface type='bridge'/>", b"<readonly/>",
    b"<hostdev mode='capabilities' type='misc'><source><char>/dev/kvm</char>"
    b"</source></hostdev>", b"<capabilities policy='allow'/>",
    b"<disk type='block'><target dev='x y'/></disk>", b"-1", b"9" * 30,
    b"<lxc:namespace/>", b"\xef\xbb\xbf", b"\xc2\x85",
]  # fmt: skip
_texts = mutated(_SEEDS, _TOKENS).map(
    lambda data: data.decode(errors="replace")
)
_READERS: list[Callable[[str], object]] = [
    expected.of_domain,
    audit_domain,
    domain.read_id_maps,
    domain.read_marker,
]


def _read(text: str) -> None:
    for read in _READERS:
        with suppress(DomainXmlError):
            read(text)


@given(_texts)
def reading(text: str) -> None:
    """It is read, or refused by the documented error."""
    _read(text)


@given(_texts, id_maps)
def editing(text: str, maps: IdMaps) -> None:
    """ID maps are those that were given, once and for all."""
    with suppress(DomainXmlError):
        edited = domain.add_id_maps(text, maps)
        found = domain.read_id_maps(edited)
        assert found is not None
        assert sorted(found.uid) == sorted(maps.uid)
        assert sorted(found.gid) == sorted(maps.gid)
        assert domain.add_id_maps(edited, maps) == edited
        audit_domain(edited)


@given(_texts, st.sampled_from(sorted(DOCUMENTS)))
def applying(text: str, name: str) -> None:
    """The domain has what was promised, once and for all, or is refused."""
    wanted = promise(name)
    with suppress(DomainXmlError, DomainConflictError):
        edited = domain.apply(text, wanted)
        assert domain.read_id_maps(edited) == wanted.id_maps
        assert domain.read_marker(edited) == wanted.marker
        assert domain.apply(edited, wanted) == edited
        audit_domain(edited)


# Large ones, for whose sake a parser may not take long.
_REPEATED = st.tuples(
    st.sampled_from(_SEEDS), st.sampled_from(_TOKENS), st.integers(0, 3000)
).map(
    lambda parts: (
        parts[0].replace(b"</domain>", parts[1] * parts[2]) + b"</domain>"
    )
)


@given(_REPEATED)
def large(data: bytes) -> None:
    """A large one takes little longer."""
    _read(data.decode(errors="replace"))
