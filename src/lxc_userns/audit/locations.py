# SPDX-License-Identifier: Apache-2.0
"""Locations of elements: XPath, and order in the document.

libxml2 finds the path of one element by counting the siblings before it,
which takes hours for a hostile document; here they are counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import cast

from lxml import etree

from lxc_userns.audit.finding import Finding, Violation


def to_findings(
    domain: etree._Element, violations: Iterable[Violation]
) -> list[Finding]:
    """Sort findings: the most severe first, then as in the document."""
    places = _Places(domain)
    ordered = sorted(
        violations,
        key=lambda each: (-each.rule.severity, places.order[each.element]),
    )
    return [
        Finding(
            severity=rule.severity,
            code=rule.code,
            subject=places.path(element),
            message=message,
            remedy=rule.remedy,
            # The stubs do not know its type.
            line=cast("int | None", element.sourceline),
        )
        for rule, element, message in ordered
    ]


class _Places:
    def __init__(self, domain: etree._Element) -> None:
        self.order = {each: n for n, each in enumerate(domain.iter())}
        self._steps: dict[etree._Element, dict[etree._Element, str]] = {}

    def path(self, element: etree._Element) -> str:
        """Return the XPath, as libxml2's ``xmlGetNodePath`` has it."""
        steps: list[str] = []
        place: etree._Element | None = element
        while place is not None:
            parent = place.getparent()
            steps.append(
                _name(place) if parent is None else self._step(parent, place)
            )
            place = parent
        return "/".join(["", *reversed(steps)])

    def _step(self, parent: etree._Element, element: etree._Element) -> str:
        if parent not in self._steps:
            self._steps[parent] = dict(_number(parent))
        return self._steps[parent][element]


def _number(
    parent: etree._Element,
) -> Iterable[tuple[etree._Element, str]]:
    children = [*parent.iterchildren(etree.Element)]
    names = [_name(child) for child in children]
    total = Counter(names)
    seen: Counter[str] = Counter()
    for position, (child, name) in enumerate(
        zip(children, names, strict=True), start=1
    ):
        seen[name] += 1
        # "*" is for all names, which alone without a prefix cannot be said.
        number = position if name == "*" else seen[name]
        alone = total[name] == 1 if name != "*" else len(children) == 1
        yield child, name if alone else f"{name}[{number}]"


def _name(element: etree._Element) -> str:
    """Return the name of an element in an XPath, with its prefix."""
    name = etree.QName(element)
    if name.namespace is None:
        return name.localname
    return f"{element.prefix}:{name.localname}" if element.prefix else "*"
