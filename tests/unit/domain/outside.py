# SPDX-License-Identifier: Apache-2.0
"""The text of a domain outside the elements that a promise decides."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxc_userns.domain import DomainParts

#: Whatever is between a '<' and its '>', or is between two of these. No parser
#: of XML is asked: the editor trusts two.
_TOKEN = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"
    r"|<(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>|[^<]+",
    re.DOTALL,
)
_NAME = re.compile(r"</?([^\s/>!?][^\s/>]*)")
#: Blanks before an element on a line of its own.
_LEAD = re.compile(r"(?:\r?\n)?[ \t]*\Z")
#: What is put into these is a part of the promise, and so are they where
#: there was none.
_AROUND = {"devices", "features", "lxc:namespace", "metadata", "resource"}
_OURS = "urn:lxc-userns:domain:1.0"


@dataclass(slots=True)
class _Element:
    """An element in a text.

    :param path: names from below the root, with a '/' between.
    :param start: place of its start tag.
    :param inside: place after that.
    :param end: place after all of it.
    """

    path: str
    start: int
    inside: int
    end: int = 0
    children: list[_Element] = field(default_factory=list)


def parse(text: str) -> _Element:
    """Find the root of a text, and all that is in it."""
    above = [_Element("", 0, 0)]
    for token in _TOKEN.finditer(text):
        name = _NAME.match(token[0])
        if name is None:
            continue  # Text, a comment or the like.
        if token[0].startswith("</"):
            above.pop().end = token.end()
            continue
        path = f"{above[-1].path}/{name[1]}" if above[1:] else "."
        path = path.removeprefix("./")
        made = _Element(path, *token.span(), token.end())
        above[-1].children.append(made)
        if not token[0].endswith("/>"):
            above.append(made)
    assert len(above) == 1
    (root,) = above[0].children
    return root


def outside(text: str, before: str, wanted: DomainParts) -> str:
    """Return a text without what a promise puts into it or replaces there.

    :param text: ``before``, or what has become of it.
    """
    cut = _Cut(text, before, wanted)
    parts, done = [], 0
    for start, end, rest in sorted(cut.spans(parse(text))):
        parts += [text[done:start], rest]
        done = end
    return "".join([*parts, text[done:]])


class _Cut:
    def __init__(self, text: str, before: str, wanted: DomainParts) -> None:
        self._text, self._before, self._wanted = text, before, wanted
        below = [*_below(parse(before))]
        self._there = {each.path: each for each in below}
        self._targets = {each.target for each in wanted.filesystems}
        self._replaced = {self._key(each, before) for each in below}

    def spans(self, parent: _Element) -> Iterator[tuple[int, int, str]]:
        """Find what is cut out, and what is put in its place."""
        for each in parent.children:
            raw = self._text[each.start : each.end]
            around = each.path in _AROUND
            if around and each.path not in self._there:
                assert all(self._is_cut(it) for it in each.children), raw
                yield self._with_lead(each)
            elif around and self._was_empty(each):
                assert all(self._is_cut(it) for it in each.children), raw
                tag = self._text[each.start : each.inside]
                slash = tag.rstrip("/>").rstrip()
                yield each.start, each.end, f"{slash}/>"
            elif self._is_cut(each):
                yield self._with_lead(each)
            else:
                yield from self.spans(each)

    def _was_empty(self, element: _Element) -> bool:
        was = self._there[element.path]
        return self._before.endswith("/>", was.start, was.inside)

    @staticmethod
    def _key(element: _Element, text: str) -> tuple[str, str | None]:
        """Return which element it is, also when it was replaced."""
        if _OURS in (raw := text[element.start : element.end]):
            return _OURS, None
        return element.path, _target(raw)

    def _with_lead(self, element: _Element) -> tuple[int, int, str]:
        """Cut out an element, and the line break that came with it."""
        if self._key(element, self._text) in self._replaced:
            return element.start, element.end, ""
        lead = _LEAD.search(self._text, 0, element.start)
        assert lead is not None
        return lead.start(), element.end, ""

    def _is_cut(self, element: _Element) -> bool:
        raw = self._text[element.start : element.end]
        match element.path:
            case "idmap" | "features/capabilities" | "resource/partition":
                return True
            case "uuid" | "features/privnet":
                return element.path not in self._there
            case "devices/filesystem":
                return _target(raw) in self._targets
            case "devices/hostdev":
                return raw not in self._before
            case "seclabel":
                return bool(re.search(r"type=[\"']dynamic", raw))
        is_metadata = element.path.startswith("metadata/")
        is_shared = element.path.startswith("lxc:namespace/")
        return (is_metadata and _OURS in raw) or (
            is_shared and raw not in self._before
        )


def _target(raw: str) -> str | None:
    found = re.search(r"<target\s+dir=[\"']([^\"']*)", raw)
    return html.unescape(found[1]) if found else None


def _below(element: _Element) -> Iterator[_Element]:
    for each in element.children:
        yield each
        yield from _below(each)
