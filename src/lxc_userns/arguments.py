# SPDX-License-Identifier: Apache-2.0
"""Arguments of the public API: one of another type is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import signature
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from lxc_userns.exceptions import ArgumentError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_LONGEST_SHOWN: Final = 100
_WORDS: Final = {str: "text (str)", int: "a whole number", type(None): "None"}


def check_type(what: str, name: str, value: object, *types: type) -> None:
    """Refuse a value that is of none of some types.

    :param what: the function or class, as its caller knows it.
    :param name: the argument.
    :param types: what it may be; ``int`` is no truth value.
    :raises ArgumentError: if it is anything else.
    """
    is_one = isinstance(value, types)
    if isinstance(value, bool) and bool not in types:
        is_one = object in types
    if not is_one:
        expected = " or ".join(
            _WORDS.get(each, each.__name__) for each in types
        )
        kind = type(value).__name__
        refuse(what, name, value, f"is of type {kind}; give {expected}")


def check_range(what: str, name: str, value: int | None, span: range) -> None:
    """Refuse a number that is not among those expected; None is none.

    :param span: the numbers that are.
    :raises ArgumentError: for any other.
    """
    if value is not None and value not in span:
        refuse(what, name, value, f"expected {span[0]}..{span[-1]}")


def check_items(what: str, name: str, value: object, kind: type) -> None:
    """Refuse what is no sequence of one type.

    :raises ArgumentError: if it is anything else.
    """
    is_text = isinstance(value, str | bytes)
    if is_text or not isinstance(value, Iterable):
        reason = f"is of type {type(value).__name__}"
    elif wrong := [each for each in value if not isinstance(each, kind)]:
        reason = f"has {shown(wrong[0])} of type {type(wrong[0]).__name__}"
    else:
        return
    refuse(what, name, value, f"{reason}; give a sequence of {kind.__name__}")


def refuse(what: str, name: str, value: object, reason: str) -> NoReturn:
    """Raise the error for an argument.

    :raises ArgumentError: always.
    """
    raise ArgumentError(f"{what}: {name}", shown(value), reason)


def checked(
    **expected: Any,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function refuse arguments of other types than these.

    :param expected: by argument, a type or a tuple of types.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return the function, with its arguments checked."""
        parameters = signature(function)
        what = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            """Check the arguments, then call the function."""
            given: dict[str, Any] = parameters.bind(*args, **kwargs).arguments
            for name, types in expected.items():
                if name in given:
                    several = types if isinstance(types, tuple) else (types,)
                    check_type(what, name, given[name], *several)
            return function(*args, **kwargs)

        return call

    return decorate


def shown(value: object) -> str:
    """Return what an error shows of a value: as Python does, cut short."""
    try:
        text = repr(value)
    except ValueError:
        # Of so many digits that it writes them not at all, by default 4300.
        text = f"{type(value).__name__} of too many digits"
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[:_LONGEST_SHOWN]}..."
    return text


def as_text(value: object) -> str:
    """Return a text as it is, and what an error shows of anything else."""
    return value if isinstance(value, str) else shown(value)
