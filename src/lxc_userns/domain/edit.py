# SPDX-License-Identifier: Apache-2.0
"""ID maps for domain XML that somebody else made.

The text is edited, not rebuilt: what is not ours stays as it is, byte for
byte, so that a difference shows what was done.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.parsers import expat

from lxml import etree

from lxc_userns.arguments import checked
from lxc_userns.domain import idmaps
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import attribute, encode, parse_domain
from lxc_userns.domain.filesystem import (
    ROOT_TYPES,
    source_of,
    target_of,
    type_of,
    userns_problems,
)
from lxc_userns.domain.init import check_variable
from lxc_userns.domain.interface import has_own_network
from lxc_userns.domain.namespaces import shares_namespaces
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps


@checked(domain_xml=str, id_maps=IdMaps)
def add_id_maps(domain_xml: str, id_maps: IdMaps) -> str:
    """Give a domain these ID maps, in place of any that it has.

    A domain without an interface is given ``<privnet/>`` too: in the host's
    network namespace a container with ID maps cannot start. All the rest is
    kept byte for byte, and doing it twice is doing it once.

    This looks at nothing but its arguments. Whether users or leases of the
    host hold some of the host IDs was asked for maps that come from
    :func:`~lxc_userns.load_id_maps` or
    :class:`~lxc_userns.UserNamespaceManager`; of maps that you have made
    yourself ask :func:`lxc_userns.config.settings.check_held` before you start
    anything.

    :param domain_xml: an LXC domain, from anywhere.
    :param id_maps: what it is to have.
    :returns: the domain's new text.
    :raises DomainXmlError: if this is not an LXC domain, or one that cannot
        run, or not safely, in a user namespace; the text names every reason.
    """
    domain = parse_domain(domain_xml)
    problems = list(_problems(domain))
    if problems:
        raise DomainXmlError(f"domain XML: {'; '.join(problems)}")
    edited = _edit(
        encode(domain_xml),
        None if idmaps.is_element_of(domain, id_maps) else id_maps,
        needs_privnet=not has_own_network(domain),
    ).decode()
    # The text was cut by the findings of one parser; libvirt has another.
    found = idmaps.read_id_maps(edited)
    if found is None or _rows(found) != _rows(id_maps):
        raise DomainXmlError("domain XML: cannot be edited; format it anew")
    return edited


def _rows(id_maps: IdMaps) -> tuple[object, object]:
    return sorted(id_maps.uid), sorted(id_maps.gid)


def _problems(domain: etree._Element) -> Iterator[str]:
    roots: list[etree._Element] = []
    for element in domain.iterfind("devices/filesystem"):
        kind, target = type_of(element), target_of(element)
        readonly = element.find("readonly") is not None
        yield from userns_problems(kind, target or "", readonly)
        if target == "/":
            roots.append(element)
    if not roots:
        yield (
            "no filesystem has the target '/' (exactly so), so the "
            "container's root would be the host's, where the mapped root may "
            "do nothing; add one"
        )
    elif len(roots) > 1:
        yield "several filesystems have the target '/', libvirt takes one"
    else:
        yield from _root_problems(roots[0])
    if shares_namespaces(domain):
        yield (
            "it shares namespaces (<lxc:namespace>), which a user namespace "
            "has no right to enter"
        )
    for variable in domain.iterfind("os/initenv"):
        try:
            check_variable(attribute(variable, "name"), variable.text or "")
        except DomainXmlError as err:
            yield str(err)


def _root_problems(element: etree._Element) -> Iterator[str]:
    kind, source = type_of(element), source_of(element)
    if kind not in ROOT_TYPES:
        yield f"the root filesystem cannot be of type {shown(kind)}"
    elif not source:
        yield "the root filesystem has no source; name its directory"
    elif not source.startswith("/"):
        yield (
            f"the source of the root filesystem {shown(source)} is not an "
            "absolute path"
        )
    # Two slashes at the beginning are kept by normpath(), as POSIX has it.
    elif posixpath.normpath(source).strip("/") == "":
        yield (
            f"the source of the root filesystem is {shown(source)}, so the "
            "container's root would be the host's, where the mapped root may "
            "do nothing; name a directory of its own"
        )


#: First byte and first byte after it of what is replaced, and by what.
_Change = tuple[int, int, bytes]
#: A start tag, or an empty element's only one; of well-formed XML.
_TAG = re.compile(rb"""<(?:[^<>"']++|"[^"]*+"|'[^']*+')*+>""")


@dataclass(frozen=True, slots=True)
class _Span:
    """Where an element is in the text.

    :param start: first byte of its start tag.
    :param inside: first byte after its start tag.
    :param end: first byte after it.
    """

    start: int
    inside: int
    end: int


def _spans(data: bytes) -> dict[str, list[_Span]]:
    """The elements just below the root, by name; libxml2 does not tell."""
    parser = expat.ParserCreate("utf-8", " ")
    starts: list[int] = []
    spans: dict[str, list[_Span]] = {}

    def start(_name: str, _attributes: object) -> None:
        starts.append(parser.CurrentByteIndex)

    def end(name: str) -> None:
        begin = starts.pop()
        if len(starts) == 1 and (tag := _TAG.match(data, begin)):
            stop = tag.end()
            if not tag.group().endswith(b"/>"):
                stop = data.index(b">", parser.CurrentByteIndex) + 1
            spans.setdefault(name, []).append(_Span(begin, tag.end(), stop))

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(data, True)
    return spans


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a document sets its elements: line break and one indentation."""

    newline: str
    unit: str

    @classmethod
    def at(cls, data: bytes, position: int) -> _Layout:
        """Return the place of an element just below the root."""
        lead = data[_line_end(data, position) : position].decode()
        unit = lead.lstrip("\r\n")
        newline = lead.removesuffix(unit)
        return cls(newline, unit or "  ") if newline else cls("", "")

    def lines(self, depth: int, element: etree._Element) -> bytes:
        """The element at this depth, a line break before it."""
        if self.newline:
            etree.indent(element, self.unit, level=depth)
        text = f"\n{self.unit * depth}{etree.tostring(element).decode()}"
        return text.replace("\n", self.newline).encode()


def _line_end(data: bytes, position: int) -> int:
    """Where the line before ends, if only blanks are in between."""
    end = position
    while data[end - 1 : end] in (b" ", b"\t"):
        end -= 1
    for newline in (b"\r\n", b"\n"):
        if data.endswith(newline, 0, end):
            return end - len(newline)
    return position


def _edit(
    data: bytes, id_maps: IdMaps | None, *, needs_privnet: bool
) -> bytes:
    """Return the text with these ID maps; None leaves those that it has."""
    spans = _spans(data)
    layout = _Layout.at(data, spans["os"][0].start)
    present = spans.get("idmap", [])
    after = (present or spans["os"])[0].end
    changes: list[_Change] = []
    if id_maps is not None:
        changes += _replace_maps(data, present, layout, after, id_maps)
    if needs_privnet:
        changes.append(_add_privnet(data, spans, layout, after))
    parts, done = [], 0
    # At one place, what is added comes before what is taken away, and of two
    # that are added the first stays the first.
    for start, end, text in sorted(changes, key=lambda each: each[:2]):
        parts += [data[done:start], text]
        done = end
    return b"".join([*parts, data[done:]])


def _replace_maps(
    data: bytes,
    present: list[_Span],
    layout: _Layout,
    after: int,
    id_maps: IdMaps,
) -> Iterator[_Change]:
    idmap = layout.lines(1, idmaps.to_element(id_maps))
    if not present:
        yield after, after, idmap
        return
    first, *others = present
    yield first.start, first.end, idmap.lstrip()
    for other in others:
        yield _line_end(data, other.start), other.end, b""


def _add_privnet(
    data: bytes, spans: dict[str, list[_Span]], layout: _Layout, after: int
) -> _Change:
    privnet = etree.Element("privnet")
    if "features" not in spans:
        features = etree.Element("features")
        features.append(privnet)
        return after, after, layout.lines(1, features)
    span = spans["features"][0]
    text = layout.lines(2, privnet)
    if span.inside < span.end:
        return span.inside, span.inside, text
    slash = data.rindex(b"/", span.start, span.end)
    close = f"{layout.newline}{layout.unit}</features>".encode()
    return slash, span.end, b">" + text + close
