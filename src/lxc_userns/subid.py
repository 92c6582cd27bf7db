# SPDX-License-Identifier: Apache-2.0
"""The text of ``/etc/subuid`` and ``/etc/subgid`` (:manpage:`subuid(5)`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxc_userns.idmap import ID_LIMIT

_NUMBER = re.compile(r"[0-9]{1,10}")


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
        """The IDs of this range."""
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


def parse(
    text: str,
) -> tuple[tuple[SubordinateRange, ...], tuple[MalformedLine, ...]]:
    """Read the file's text.

    shadow takes octal and hexadecimal numbers too; here they are malformed,
    for a number that two readers understand differently is worse than none.

    :param text: the whole text of the file.
    :returns: the ranges, and the lines that are none, in file order.
    """
    ranges = []
    malformed = []
    for number, line in _lines(text):
        result = _parse_line(number, line)
        if isinstance(result, SubordinateRange):
            ranges.append(result)
        else:
            malformed.append(result)
    return tuple(ranges), tuple(malformed)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _parse_line(number: int, line: str) -> SubordinateRange | MalformedLine:
    fields = line.split(":")
    if len(fields) != 3 or not fields[0]:
        return MalformedLine(number, line, "expected owner:start:count")
    owner, start, count = fields
    if not (_NUMBER.fullmatch(start) and _NUMBER.fullmatch(count)):
        return MalformedLine(
            number, line, "start and count have to be decimal integers"
        )
    if any(field != "0" and field.startswith("0") for field in fields[1:]):
        return MalformedLine(
            number, line, "start and count must have no leading zero"
        )
    if not 1 <= int(count) <= ID_LIMIT - int(start):
        return MalformedLine(
            number, line, f"IDs have to lie in 0..{ID_LIMIT - 1}"
        )
    return SubordinateRange(owner, int(start), int(count), number)
