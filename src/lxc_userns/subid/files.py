# SPDX-License-Identifier: Apache-2.0
"""Subordinate IDs: what files and programs say of them, read as text.

The files are ``/etc/subuid`` and ``/etc/subgid`` (:manpage:`subuid(5)`), or
what ``/etc/nsswitch.conf`` has in their place.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from lxc_userns.idmap import ID_LIMIT

_NUMBER = re.compile(r"[0-9]{1,10}")
_LONGEST_NUMBER = 20
# What strtoul(3) takes, but for a minus: that number is near 2**64, and no ID
# is in a range that begins there or wraps around.
_NUMBER_OF_SHADOW = re.compile(r"\+?(0[xX][0-9a-fA-F]+|[0-9]+)")
#: A line as nearly all are; others are looked at one by one.
_USUAL = re.compile(
    r"([0-9A-Za-z_][0-9A-Za-z_.@-]*):(0|[1-9][0-9]{0,9}):([1-9][0-9]{0,9})"
)
#: Marks of Unicode that say how a text is written, and cannot be seen.
_UNSEEN = "Cf"
_BYTE_ORDER_MARK = "\ufeff"
_LISTED = re.compile(r"[0-9]+: (\S+) ([0-9]+) ([0-9]+)")
_SOURCE = re.compile(r"^subid:[^\S\n]*(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SubordinateRange:
    """Host IDs that a user may hand on.

    :param owner: user name, or user ID in decimal.
    :param start: first ID.
    :param count: number of IDs, 1 or more.
    :param line: line of the file, from 1.
    """

    owner: str
    start: int
    count: int
    line: int

    @property
    def ids(self) -> range:
        """Return the IDs of this range."""
        return range(self.start, self.start + self.count)


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is not ``owner:start:count``.

    :param line: line of the file, from 1.
    :param text: what it says.
    :param reason: what is wrong with it.
    """

    line: int
    text: str
    reason: str

    @property
    def owner(self) -> str:
        """Owner that the line would give the range to."""
        return self.text.split(":")[0].strip().strip(_BYTE_ORDER_MARK)

    @property
    def ids(self) -> range | None:
        """IDs that shadow may read in the line; no one else may have them."""
        fields = self.text.split(":")
        numbers = [_read_as_shadow(each) for each in fields[1:3]]
        if len(numbers) < 2 or None in numbers:
            return None
        start, count = (number or 0 for number in numbers)
        return range(start, start + count)


# The same text is asked for again and again, and both files may have it.
@lru_cache(2)
def parse(
    text: str,
) -> tuple[tuple[SubordinateRange, ...], tuple[MalformedLine, ...]]:
    """Read the file's text.

    shadow takes octal and hexadecimal numbers too; here they are malformed,
    for a number that two readers understand differently is worse than none.

    :param text: the whole text of the file.
    :returns: the ranges, and the lines that are none, in file order.
    """
    ranges: list[SubordinateRange] = []
    malformed: list[MalformedLine] = []
    # In one loop, for there can be a million lines.
    for number, line in enumerate(text.split("\n"), start=1):
        usual = _USUAL.fullmatch(line)
        if usual is not None:
            owner, start, count = usual[1], int(usual[2]), int(usual[3])
            if start + count <= ID_LIMIT:
                ranges.append(SubordinateRange(owner, start, count, number))
                continue
        if _is_silent(line):
            continue
        parsed = _parse_line(number, line)
        if isinstance(parsed, MalformedLine):
            malformed.append(parsed)
        else:
            ranges.append(parsed)
    return tuple(ranges), tuple(malformed)


def parse_listed(
    text: str,
) -> tuple[tuple[SubordinateRange, ...], tuple[MalformedLine, ...]]:
    """Read what :manpage:`getsubids(1)` prints.

    :param text: all of its output, lines of ``INDEX: OWNER START COUNT``.
    :returns: as :func:`parse`.
    """
    return _sort(_parse_listed(number, line) for number, line in _lines(text))


def parse_source(text: str) -> str:
    """Return where subordinate IDs come from.

    :param text: text of :manpage:`nsswitch.conf(5)`. Of several sources
        shadow reads the first, and so do we.
    :returns: the source of ``subid``, which is ``files`` unless it says
        otherwise.
    """
    match = _SOURCE.search(text)
    return "files" if match is None else match[1]


def find_overlaps(
    ranges: tuple[SubordinateRange, ...], identify: Callable[[str], str]
) -> Iterator[tuple[SubordinateRange, SubordinateRange]]:
    """Yield pairs of ranges that share IDs and have different owners.

    :param identify: what is the same for all names of an owner.
    """
    active: list[SubordinateRange] = []
    for each in sorted(ranges, key=lambda held: held.start):
        active = [one for one in active if one.ids.stop > each.start]
        for one in active:
            if identify(one.owner) != identify(each.owner):
                yield one, each
        active.append(each)


def _sort(
    results: Iterator[SubordinateRange | MalformedLine],
) -> tuple[tuple[SubordinateRange, ...], tuple[MalformedLine, ...]]:
    found = tuple(results)
    return (
        tuple(each for each in found if isinstance(each, SubordinateRange)),
        tuple(each for each in found if isinstance(each, MalformedLine)),
    )


def _parse_listed(number: int, line: str) -> SubordinateRange | MalformedLine:
    match = _LISTED.fullmatch(line)
    if match is None:
        return MalformedLine(number, line, "expected INDEX: OWNER START COUNT")
    parsed = _parse_line(number, ":".join(match.groups()))
    if isinstance(parsed, MalformedLine):
        return MalformedLine(number, line, parsed.reason)
    return parsed


def _find_unseen(line: str) -> str:
    """Return the invisible characters of a line, by name; empty for none."""
    for character in line:
        if character == "\r":
            return "a carriage return (CR)"
        if character == _BYTE_ORDER_MARK:
            return "a byte-order mark (U+FEFF)"
        if unicodedata.category(character) == _UNSEEN:
            return f"the invisible character U+{ord(character):04X}"
    return ""


def _read_as_shadow(text: str) -> int | None:
    """Return a number as :manpage:`strtoul(3)` takes it, of any base."""
    match = _NUMBER_OF_SHADOW.fullmatch(text.strip())
    if match is None:
        return None
    digits = match[1][:_LONGEST_NUMBER]
    base = 16 if digits[1:2] in ("x", "X") else 8 if digits[0] == "0" else 10
    try:
        return int(digits, base)
    except ValueError:
        return None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not _is_silent(line):
            yield number, line


def _is_silent(line: str) -> bool:
    """Return whether a line is blank, or a comment."""
    return not line.strip() or line.lstrip().startswith("#")


def _parse_line(number: int, line: str) -> SubordinateRange | MalformedLine:
    fields = line.split(":")
    if "\0" in line:
        return MalformedLine(number, line, "it has a byte that is zero")
    unseen = _find_unseen(line)
    if unseen:
        return MalformedLine(number, line, f"it has {unseen}; remove that")
    if len(fields) != 3 or not fields[0]:
        return MalformedLine(number, line, "expected owner:start:count")
    owner, start, count = fields
    if owner != owner.strip():
        return MalformedLine(number, line, "the owner has blanks around it")
    if not (_NUMBER.fullmatch(start) and _NUMBER.fullmatch(count)):
        return MalformedLine(
            number, line, "start and count have to be decimal integers"
        )
    if any(field != "0" and field.startswith("0") for field in fields[1:]):
        return MalformedLine(
            number, line, "start and count must have no leading zero"
        )
    if count == "0":
        return MalformedLine(number, line, "count is 0")
    if int(count) > ID_LIMIT - int(start):
        return MalformedLine(
            number, line, f"IDs have to lie in 0..{ID_LIMIT - 1}"
        )
    return SubordinateRange(owner, int(start), int(count), number)
