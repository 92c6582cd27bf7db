# SPDX-License-Identifier: Apache-2.0
"""Sizes in bytes as people write them, with the units of :manpage:`numfmt(1)`.

K, M, G and so on are powers of 1000; Ki, Mi, Gi of 1024, as ``numfmt
--from=auto`` reads them.
"""

from __future__ import annotations

import re
from fractions import Fraction

_LETTERS = "KMGTPE"
_SIZE = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?(?:([{_LETTERS}])(i?))?B?")

_MEMORY = re.compile(
    rf"([0-9]+(?:\.[0-9]+)?)(?: ?([{_LETTERS}])(|i|B|iB))?",
    re.IGNORECASE,
)


def parse_size(text: str) -> int:
    """Return a number of bytes.

    :param text: a decimal number, then a unit or none: ``64 GiB``, ``1.5G``.
    :raises ValueError: if it is anything else, or no whole number of bytes.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text}: expected a number of bytes, with or without a unit, as "
            "64 GiB, 500M or 1048576"
        )
    number, letter, is_binary = found.groups()
    power = _LETTERS.index(letter) + 1 if letter else 0
    size = Fraction(number) * (1024 if is_binary else 1000) ** power
    if size.denominator != 1:
        raise ValueError(f"{text}: expected a whole number of bytes")
    return int(size)


def parse_memory(text: str) -> int:
    """Return whole MiB of an amount of memory, rounded down.

    Units are those of libvirt and podman, in capital or small letters: K, M,
    G and Ki, KiB and so on are powers of 1024; KB, MB, GB are powers of 1000.

    :param text: a decimal number with a unit, or of MiB without one.
    :raises ValueError: if it is anything else.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text}: expected a number of MiB, or one with a unit, as 512M, "
            "1.5GiB or 2g"
        )
    number, letter, rest = found.groups()
    power = _LETTERS.index((letter or "M").upper()) + 1
    base = 1000 if (rest or "").upper() == "B" else 1024
    return int(Fraction(number) * base**power / 1024**2)


def format_size(size: int) -> str:
    """Return a size with the largest unit that gives a whole number.

    :param size: bytes, 0 or more.
    """
    power = 0
    while size and not size % 1024 and power < len(_LETTERS):
        size //= 1024
        power += 1
    return f"{size} {_LETTERS[power - 1]}iB" if power else f"{size} bytes"
