# SPDX-License-Identifier: Apache-2.0
"""Text of others in messages of ours."""

from __future__ import annotations

import sys

_LONGEST = 80


def shorten(text: str) -> str:
    """Cut what no one reads to its end: more than 80 characters."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}... ({len(text)} characters)"


def show(text: str) -> str:
    """Make text of others fit a message, with all that is in it to be seen.

    Quoted where there are blanks or controls that would not be: around it,
    several together, or a carriage return.
    """
    short = shorten(text)
    is_plain = short.isprintable() and short == " ".join(short.split())
    return short if is_plain else repr(short)


def printable(path: str) -> str:
    """Return a path with bytes that are no text, and controls, escaped."""
    # As os.fsencode() has it.
    encoding = sys.getfilesystemencoding()
    raw = path.encode(encoding, sys.getfilesystemencodeerrors())
    return escape(raw.decode("utf-8", "backslashreplace"))


def one_line(text: str) -> str:
    """Return a text in one line, escaped."""
    return escape(" ".join(text.split()))


def escape(text: str) -> str:
    """Return a text with all that a terminal would act upon escaped."""
    return "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in text
    )
