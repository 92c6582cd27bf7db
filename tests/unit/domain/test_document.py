# SPDX-License-Identifier: Apache-2.0
"""Reading XML that no one vouches for."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.domain import (
    add_id_maps,
    apply,
    read_bridges,
    read_id_maps,
    read_marker,
    read_root_source,
)
from lxc_userns.domain.document import MAX_SIZE, parse, parse_domain, text_at
from lxc_userns.domain.limits import read_limits
from lxc_userns.exceptions import DomainXmlError
from tests.unit.domain.samples import DOCUMENTS, MAPS, promise

PRIVATE = DOCUMENTS["private"]
LAUGHS = "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10)
)


_READERS = (
    read_bridges,
    read_id_maps,
    read_limits,
    read_marker,
    read_root_source,
)


def read_all(text: str) -> None:
    for read in _READERS:
        read(text)


def edit_all(text: str) -> None:
    with pytest.raises(DomainXmlError) as caught:
        add_id_maps(text, MAPS)
    with pytest.raises(DomainXmlError, match=re.escape(str(caught.value))):
        apply(text, promise("private"))
    raise caught.value


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE domain>",
        f'<!DOCTYPE domain [<!ENTITY l0 "ha">{LAUGHS}]>',
        '<!DOCTYPE domain [<!ENTITY l9 SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE domain SYSTEM "http://127.0.0.1:1/domain.dtd">',
        '<!DOCTYPE domain [<!ENTITY % p SYSTEM "/etc/hostname"> %p;]>',
    ],
)
@pytest.mark.parametrize("use", ["&l9;", "web"])
def test_document_type(doctype: str, use: str) -> None:
    text = f"{doctype}\n{PRIVATE.replace('private', use, 1)}"
    with pytest.raises(DomainXmlError, match="has a document type"):
        read_all(text)
    with pytest.raises(DomainXmlError, match="has a document type"):
        edit_all(text)


def test_document_type_is_only_a_word_elsewhere() -> None:
    root = parse("<a><!-- <!DOCTYPE a> --><![CDATA[<!DOCTYPE a>]]></a>")
    assert root[0].tail == "<!DOCTYPE a>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no element found"),
        ("<domain", "unclosed token"),
        ("<domain></a>", "mismatched tag"),
        ("<domain/><domain/>", "junk after document element"),
        ("<domain>&nbsp;</domain>", "undefined entity"),
        ("<a:domain/>", "unbound prefix"),
        ("<domain a='1' a='2'/>", "duplicate attribute"),
        ("<domain>\x00</domain>", "not well-formed"),
        ("<domain>\x1b</domain>", "not well-formed"),
        ("<domain>&#0;</domain>", "invalid character number"),
        ("<domain>\ud800</domain>", "not valid Unicode text"),
        ("<a>" * 300 + "</a>" * 300, "depth"),
        (f"<domain>{' ' * MAX_SIZE}</domain>", "libvirt takes at most"),
    ],
)
def test_malformed(text: str, reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        read_all(text)
    assert str(caught.value).startswith("domain XML: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<network/>", "root element 'network': expected <domain>"),
        ("<domain xmlns='urn:x' type='lxc'/>", "root element"),
        ("<domain/>", "type None: expected 'lxc', which alone has ID maps"),
        ("<domain type='kvm'/>", "domain XML: type 'kvm'"),
        ("<domain type='lxc'/>", "operating system None"),
        (
            "<domain type='lxc'><os><type>hvm</type></os></domain>",
            "operating system 'hvm': expected 'exe', as a container",
        ),
    ],
)
def test_no_lxc_domain(text: str, reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        read_all(text)
    with pytest.raises(DomainXmlError, match=reason):
        edit_all(text)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-16", "ISO-8859-1"])
def test_declared_encoding_is_that_of_the_file(encoding: str) -> None:
    text = declare(encoding, PRIVATE.replace("private", "prïvåte"))
    assert name_of(text) == "prïvåte"
    assert add_id_maps(text, MAPS) == text
    title = declare(
        encoding, PRIVATE.replace("<vcpu", "<title>å</title><vcpu")
    )
    edited = apply(title, promise("private"))
    assert "<title>å</title>" in edited
    assert edited.startswith(declare(encoding, ""))


def test_declared_encoding_is_one_that_is_unknown() -> None:
    text = declare("x", PRIVATE.replace("private", "prïvåte"))
    # libxml2 does not mind from 2.12 on.
    try:
        assert name_of(text) == "prïvåte"
    except DomainXmlError as err:
        assert "Unsupported encoding x" in str(err)  # noqa: PT017


def name_of(text: str) -> str | None:
    return text_at(parse_domain(text), "name")


def declare(encoding: str, text: str) -> str:
    return f"<?xml version='1.0' encoding='{encoding}'?>\n{text}"


def test_nothing_is_included(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    text = PRIVATE.replace(
        "<name>private",
        "<name xmlns:xi='http://www.w3.org/2001/XInclude'>"
        f"<xi:include href='{secret}' parse='text'/>private",
    )
    with pytest.raises(DomainXmlError, match="<name>: expected text alone"):
        name_of(text)


@given(st.text() | st.text("<>/ =\"'&;a!-[]").map("<domain".__add__))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(DomainXmlError):
        read_all(text)
