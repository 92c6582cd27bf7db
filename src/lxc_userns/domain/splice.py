# SPDX-License-Identifier: Apache-2.0
"""Editor of XML text that somebody else made.

The text is edited, not rebuilt: all that is not edited stays as it is, byte
for byte, so that a difference shows what was done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

from lxml import etree

from lxc_userns.domain.document import encode
from lxc_userns.exceptions import DomainXmlError

#: Text of the error for a document that two parsers read differently.
MISREAD: Final = "domain XML: cannot be edited; format it anew"

#: First byte and first byte after it of what is replaced, and by what.
_Change = tuple[int, int, bytes]
#: Where an element is added, at which depth.
_Addition = tuple[int, int, etree._Element]
#: A start tag, or an empty element's only one; of well-formed XML.
_TAG = re.compile(rb"""<([^\s/>]++)(?:[^<>"']++|"[^"]*+"|'[^']*+')*+>""")


@dataclass(slots=True)
class _Span:
    """Bytes of an element.

    :param start: first byte of its start tag.
    :param name: name in that, with its prefix.
    :param inside: first byte after its start tag.
    :param end: first byte after it.
    """

    start: int
    name: bytes
    inside: int
    end: int


class Editor:
    """Edits of a document, made all at once.

    :param text: the document.
    :param root: its root element.
    :raises DomainXmlError: if the text is of another document.
    """

    def __init__(self, text: str, root: etree._Element) -> None:
        self._data = encode(text)
        spans = _spans(self._data)
        elements = [*root.iter(etree.Element)]
        if len(elements) != len(spans):
            raise DomainXmlError(MISREAD)
        self._spans = dict(zip(elements, spans, strict=True))
        first = next(iter(root.iterchildren(etree.Element)), root)
        self._layout = _Layout.at(self._data, self._spans[first].start)
        self._root = root
        self._changes: list[_Change] = []
        self._added: list[_Addition] = []
        self._prepended: dict[etree._Element, list[etree._Element]] = {}
        self._made: dict[str, etree._Element] = {}

    def insert_after(
        self, sibling: etree._Element, element: etree._Element
    ) -> None:
        """Add an element on a line of its own after another."""
        end = self._spans[sibling].end
        self._insert(end, sibling, element)

    def insert_before(
        self, sibling: etree._Element, element: etree._Element
    ) -> None:
        """Add an element on a line of its own before another."""
        start = _line_end(self._data, self._spans[sibling].start)
        self._insert(start, sibling, element)

    def add(self, element: etree._Element, *after: str) -> None:
        """Add an element below the root.

        :param after: names of elements; it comes after the first that is
            there, or before all others.
        """
        found = (self._root.find(each) for each in after)
        sibling = next((each for each in found if each is not None), None)
        if sibling is None:
            self._prepended.setdefault(self._root, []).append(element)
        else:
            self.insert_after(sibling, element)

    def add_in(
        self,
        parent: etree._Element,
        elements: Iterable[etree._Element],
        *after: str,
    ) -> None:
        """Add elements as the first in one below the root.

        :param parent: an empty one of its name, for where there is none.
        :param after: as of :meth:`add`, for that.
        """
        present = self._root.find(parent.tag)
        if present is not None:
            self._prepended.setdefault(present, []).extend(elements)
            return
        if parent.tag not in self._made:
            self._made[parent.tag] = parent
            self.add(parent, *after)
        self._made[parent.tag].extend(elements)

    def replace(self, old: etree._Element, new: etree._Element) -> None:
        """Put an element in the place of another, with the comments in it."""
        span = self._spans[old]
        _keep_comments(old, new)
        text = self._layout.lines(_depth(old), new).lstrip()
        self._changes.append((span.start, span.end, text))

    def remove(self, element: etree._Element) -> None:
        """Remove an element, and the line break before it."""
        span = self._spans[element]
        start = _line_end(self._data, span.start)
        self._changes.append((start, span.end, b""))

    def to_text(self) -> str:
        """Return the text with all edits."""
        changes = [
            *(
                (place, place, self._layout.lines(depth, element))
                for place, depth, element in self._added
            ),
            *self._changes,
            *map(self._fill, self._prepended),
        ]
        parts, done = [], 0
        # At one place, what is added comes before what is taken away, and of
        # two that are added the first stays the first.
        for start, end, text in sorted(changes, key=lambda each: each[:2]):
            parts += [self._data[done:start], text]
            done = end
        return b"".join([*parts, self._data[done:]]).decode()

    def _insert(
        self, place: int, sibling: etree._Element, element: etree._Element
    ) -> None:
        self._added.append((place, _depth(sibling), element))

    def _fill(self, parent: etree._Element) -> _Change:
        span, depth = self._spans[parent], _depth(parent)
        text = b"".join(
            self._layout.lines(depth + 1, each)
            for each in self._prepended[parent]
        )
        if span.inside < span.end:
            return span.inside, span.inside, text
        slash = self._data.rindex(b"/", span.start, span.end)
        close = self._layout.indentation(depth) + b"</" + span.name + b">"
        return slash, span.end, b">" + text + close


def _keep_comments(old: etree._Element, new: etree._Element) -> None:
    """Give an element the comments of another, each before what it was."""
    for comment in old.iter(etree.Comment):
        above = [comment, *comment.iterancestors()]
        branch = above[above.index(old) - 1]
        below = [] if branch is comment else [branch]
        below += branch.itersiblings(etree.Element)
        places = (new.find(each.tag) for each in below)
        place = next((each for each in places if each is not None), None)
        kept = etree.Comment(comment.text)
        if place is None:
            new.append(kept)
        else:
            place.addprevious(kept)


def _depth(element: etree._Element) -> int:
    return sum(1 for _ in element.iterancestors())


def _spans(data: bytes) -> list[_Span]:
    """Return all elements in order of their start; libxml2 does not tell."""
    parser = expat.ParserCreate("utf-8", " ")
    spans: list[_Span] = []
    open_spans: list[_Span] = []

    def start(_name: str, _attributes: object) -> None:
        """Note where an element begins, and for now that it ends there."""
        begin = parser.CurrentByteIndex
        tag = _TAG.match(data, begin)
        if tag is None:
            raise DomainXmlError(MISREAD)
        open_spans.append(_Span(begin, tag[1], tag.end(), tag.end()))
        spans.append(open_spans[-1])

    def end(_name: str) -> None:
        span = open_spans.pop()
        if not data.endswith(b"/>", span.start, span.inside):
            span.end = data.index(b">", parser.CurrentByteIndex) + 1

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(data, True)
    return spans


@dataclass(frozen=True, slots=True)
class _Layout:
    """Layout of a document: line break and one indentation."""

    newline: str
    unit: str

    @classmethod
    def at(cls, data: bytes, position: int) -> _Layout:
        """Return that of an element just below the root."""
        lead = data[_line_end(data, position) : position].decode()
        unit = lead.lstrip("\r\n")
        newline = lead.removesuffix(unit)
        return cls(newline, unit or "  ") if newline else cls("", "")

    def indentation(self, depth: int) -> bytes:
        """Return a line break with the blanks after it."""
        return f"{self.newline}{self.unit * depth}".encode()

    def lines(self, depth: int, element: etree._Element) -> bytes:
        """Return an element at this depth, a line break before it."""
        if self.newline:
            etree.indent(element, self.unit, level=depth)
        element.tail = None
        text = etree.tostring(element).decode()
        if self.newline:
            text = text.replace("\n", self.newline)
        return self.indentation(depth) + text.encode()


def _line_end(data: bytes, position: int) -> int:
    """Return the end of the line before, if blanks alone are in between."""
    end = position
    while data[end - 1 : end] in (b" ", b"\t"):
        end -= 1
    for newline in (b"\r\n", b"\n"):
        if data.endswith(newline, 0, end):
            return end - len(newline)
    return position
