# SPDX-License-Identifier: Apache-2.0
"""Rules of an audit, and findings against them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from lxml import etree


class Severity(IntEnum):
    """How bad a finding is; they can be compared.

    ``ERROR``: the container does not start, or not always.
    """

    INFO = 1
    WARN = 2
    HIGH = 3
    ERROR = 4
    CRITICAL = 5

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule for domains.

    :param code: its name, stable: words with hyphens between them.
    :param severity: how bad it is to break it.
    :param title: what is found, a few words.
    :param why: why that matters, a sentence or two.
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


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a domain.

    :param code: which rule is broken.
    :param severity: how bad that is.
    :param message: the reason, with the offending value.
    :param remedy: what to do.
    :param xpath: the offending element, or the parent of what is missing.
    :param line: its line in the XML, from 1; None if that is not known.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    xpath: str
    line: int | None
