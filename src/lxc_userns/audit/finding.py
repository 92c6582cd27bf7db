# SPDX-License-Identifier: Apache-2.0
"""Rules of an audit, and findings against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lxml import etree

from lxc_userns import findings
from lxc_userns.findings import Severity


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule for domains.

    :param code: its name, stable: words with hyphens between them.
    :param severity: how bad it is to break it.
    :param title: what is found, a few words.
    :param rationale: why that matters, a sentence or two.
    :param remedy: what to do, an imperative.
    :param is_live: whether more than domain XML is needed to find it.
    """

    code: str
    severity: Severity
    title: str
    rationale: str
    remedy: str
    is_live: bool = False

    def violation(self, element: etree._Element, message: str) -> Violation:
        """Return a violation of the rule.

        :param element: where, or the parent of what is missing.
        :param message: the reason, with the offending value.
        """
        return Violation(self, element, message)


class Violation(NamedTuple):
    """A finding that still knows its element."""

    rule: Rule
    element: etree._Element
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(findings.Finding):
    """Something wrong with a domain.

    :param severity: how bad that is.
    :param code: the rule that is broken.
    :param subject: XPath of the offending element, or of the parent of what
        is missing.
    :param message: the reason, with the offending value.
    :param remedy: what to do.
    :param line: its line in the XML, from 1; None if that is not known.
    """

    line: int | None = None

    @property
    def xpath(self) -> str:
        """The subject."""
        return self.subject
