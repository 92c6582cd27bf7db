# SPDX-License-Identifier: Apache-2.0
"""Types of options whose errors name the text that is wrong."""

from __future__ import annotations

from typing import Any

from oslo_config import types

from lxc_userns.spec.size import format_size, parse_size
from lxc_userns.text import shorten, show


class Integer(types.Integer):
    """An integer whose errors name the text that is none, or out of range."""

    def __call__(self, value: Any) -> Any:
        """Convert a value."""
        try:
            number = super().__call__(value)
        except ValueError as err:
            text = str(value)
            said = str(err).replace(text, shorten(text))
            raise ValueError(f"{show(text)}: {said}") from None
        # oslo.config takes no text for no number, and for no limit then.
        if number is None:
            raise ValueError("is empty; give a whole number")
        return number


class Size(types.ConfigType):
    """A number of bytes, with or without a unit.

    :param least: the least that it may be.
    """

    def __init__(self, least: int) -> None:
        super().__init__(type_name="size")
        self._least = least

    def __call__(self, value: Any) -> int:
        """Convert a value."""
        size = value if isinstance(value, int) else parse_size(value)
        if size < self._least:
            least = format_size(self._least)
            shown = show(str(value))
            raise ValueError(f"{shown}: expected at least {least}")
        return size

    def __repr__(self) -> str:
        return f"Size({self._least})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self._least == other._least

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)
