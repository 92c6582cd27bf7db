# SPDX-License-Identifier: Apache-2.0
"""Domain XML as text and as a tree: reading without trust, and writing.

Domain XML may come from a tenant. No document type is accepted, so there
are no entities to expand, no DTD and no network; and none larger than
libvirt takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NoReturn
from xml.parsers import expat

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.exceptions import DomainXmlError

#: What libvirt itself takes, in bytes: REMOTE_STRING_MAX of its protocol.
MAX_SIZE: Final = 4 * 1024 * 1024

#: A name of libvirt's XML namespace for what only its LXC driver knows.
LXC_NAMESPACE: Final = "http://libvirt.org/schemas/domain/lxc/1.0"

# libvirt's units (virScaleInteger): without "i" and with "B", powers of ten.
_BYTES_IN: Final[dict[str, int]] = {"b": 1, "byte": 1, "bytes": 1} | {
    unit: base**power
    for power, letter in enumerate("kmgtpe", start=1)
    for unit, base in (
        (letter, 1024),
        (f"{letter}ib", 1024),
        (f"{letter}b", 1000),
    )
}


def encode(text: str) -> bytes:
    """Return the text as UTF-8.

    :raises DomainXmlError: if it is too large or is not Unicode text.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise DomainXmlError("domain XML: not valid Unicode text") from None
    if len(data) > MAX_SIZE:
        raise DomainXmlError(
            f"domain XML: {len(data)} bytes: libvirt takes at most "
            f"{MAX_SIZE}; shorten it"
        )
    return data


def _refuse_doctype(*_: object) -> NoReturn:
    raise DomainXmlError(
        "domain XML: has a document type (<!DOCTYPE ...>); libvirt needs "
        "none, and entities are a way to attack a parser: remove it"
    )


def parse(text: str) -> etree._Element:
    """Return the root element of XML that no one vouches for.

    :raises DomainXmlError: if it is not well-formed, too large, or has a
        document type.
    """
    data = encode(text)
    # Expat tells of a document type before it reads on; libxml2 would have
    # taken in the entities by then.
    watch = expat.ParserCreate("utf-8", " ")
    watch.StartDoctypeDeclHandler = _refuse_doctype
    # An encoding that the text declares is that of the file it was.
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
    try:
        watch.Parse(data, True)
        return etree.fromstring(data, parser)
    except expat.ExpatError as err:
        raise DomainXmlError(f"domain XML: {err}") from None
    except etree.XMLSyntaxError as err:
        reason = " ".join(str(err.msg).split())
        raise DomainXmlError(f"domain XML: {reason}") from None


def parse_domain(text: str) -> etree._Element:
    """Return the root element of an LXC domain.

    :raises DomainXmlError: if it is anything else.
    """
    root = parse(text)
    if root.tag != "domain":
        raise DomainXmlError(
            f"domain XML: root element {shown(root.tag)}: expected <domain>"
        )
    if root.get("type") != "lxc":
        raise DomainXmlError(
            f"domain XML: type {shown(root.get('type'))}: expected 'lxc', "
            "which alone has ID maps"
        )
    kind = text_at(root, "os/type")
    if kind != "exe":
        raise DomainXmlError(
            f"domain XML: type of operating system {shown(kind)}: expected "
            "'exe', as a container has"
        )
    return root


def serialise(root: etree._Element) -> str:
    """Return the document as text, indented by two blanks."""
    etree.indent(root)
    return etree.tostring(root, encoding="unicode") + "\n"


def attribute(element: etree._Element, name: str) -> str:
    """Return an attribute that must be there."""
    value = element.get(name)
    if value is None:
        raise DomainXmlError(f"<{element.tag}>: has no {name}; add it")
    return str(value)


def text_of(element: etree._Element) -> str:
    """Return an element's text; there must be nothing else in it."""
    if len(element):
        raise DomainXmlError(
            f"<{element.tag}>: expected text alone; remove the elements in it"
        )
    return str(element.text or "")


def text_at(element: etree._Element, path: str) -> str | None:
    """Return the text of an element below, None if there is none."""
    found = element.find(path)
    return None if found is None else text_of(found)


def number_of(what: str, text: str) -> int:
    """Return a decimal number without sign."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise DomainXmlError(f"{what} {shown(text)}: expected a number")
    return int(text)


def scaled_kib(element: etree._Element, amount: str, unit: str | None) -> int:
    """Return an amount of memory in KiB.

    :param amount: the number, in ``unit``; None means KiB, as in libvirt.
    :raises DomainXmlError: if the unit is unknown, or it is no whole KiB.
    """
    factor = _BYTES_IN.get((unit or "KiB").lower())
    if factor is None:
        raise DomainXmlError(
            f"<{element.tag}>: unit {shown(unit)}: expected one of libvirt's, "
            "as 'KiB'"
        )
    size = number_of(f"<{element.tag}>", amount) * factor
    if size % 1024:
        raise DomainXmlError(
            f"<{element.tag}>: {size} bytes: expected a multiple of 1024"
        )
    return size // 1024


def child(element: etree._Element, path: str, name: str) -> str | None:
    """Return an attribute of an element below; None without either."""
    found = element.find(path)
    return None if found is None else found.get(name)


def children(
    domain: etree._Element, parent: str, name: str
) -> Iterator[etree._Element]:
    """Yield elements of a name, in whatever XML namespace, just below others.

    Of some elements libvirt compares the local name alone: for one,
    ``<x:capabilities>`` counts.

    :param parent: path of the elements above.
    :param name: local name.
    """
    for element in domain.iterfind(f"{parent}/*"):
        if etree.QName(element).localname == name:
            yield element


def read_uuid(domain_xml: str) -> str:
    """Return the UUID of an LXC domain, as libvirt writes it.

    :raises DomainXmlError: if it has none, or this is not an LXC domain.
    """
    found = parse_domain(domain_xml).findtext("uuid")
    if found is None:
        raise DomainXmlError("domain XML: has no <uuid>; define it first")
    return found.strip()
