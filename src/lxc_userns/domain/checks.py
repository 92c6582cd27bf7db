# SPDX-License-Identifier: Apache-2.0
"""Checks of single values, before they become XML.

lxml raises ValueError for text that XML cannot carry, and libvirt loses or
changes some that XML can. Both end here, as one line that names the value.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NoReturn

from lxc_userns.exceptions import DomainXmlError

_LONGEST_SHOWN = 100

#: What XML 1.0 has no way to say (section 2.2, production Char).
_NO_XML = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", re.UNICODE
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def shown(value: object) -> str:
    """Return a value for an error text: quoted, on one line, not too long."""
    text = repr(value)
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"
    return text


def refuse(what: str, value: object, reason: str) -> NoReturn:
    """Raise the error for a value that cannot be used."""
    raise DomainXmlError(f"{what} {shown(value)}: {reason}")


def check_text(what: str, value: str) -> None:
    """Return an element's text: no controls but blanks and newlines."""
    if not isinstance(value, str):
        refuse(what, value, "expected text")
    if _NO_XML.search(value):
        refuse(what, value, "has a character that XML cannot carry")
    # libvirt writes it as it is, and a reader makes a newline of it.
    if "\r" in value:
        refuse(what, value, "has a carriage return, which libvirt loses")


def check_label(what: str, value: str) -> None:
    """Return a text that must be there and must be one line."""
    check_text(what, value)
    if not value:
        refuse(what, value, "must not be empty")
    # In an attribute libvirt would turn tab and newline into blanks.
    if _CONTROL.search(value):
        refuse(what, value, "has a control character")


def check_match(what: str, value: str, pattern: str, form: str) -> None:
    """Return a text of one form, as libvirt's schema has it."""
    check_label(what, value)
    if not re.fullmatch(pattern, value, re.ASCII):
        refuse(what, value, f"expected {form}")


def check_path(what: str, value: str) -> None:
    """Return an absolute path."""
    check_label(what, value)
    if not value.startswith("/"):
        refuse(what, value, "expected an absolute path")


def check_number(what: str, value: int, lowest: int, highest: int) -> None:
    """Return a whole number between two others, both included."""
    # bool is an int to Python, but True is no amount of memory.
    if type(value) is not int or not lowest <= value <= highest:
        refuse(what, value, f"expected a number from {lowest} to {highest}")


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Return one of some words."""
    if value not in choices:
        refuse(what, value, f"expected one of {', '.join(sorted(choices))}")
