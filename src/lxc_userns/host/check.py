# SPDX-License-Identifier: Apache-2.0
"""One thing that was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lxc_userns.exceptions import ConfigError

#: ``FAIL``: containers in user namespaces cannot work. ``WARN``: they can,
#: not all of them or not as well.
Status = Literal["PASS", "WARN", "FAIL"]

_GRAVITY: tuple[Status, ...] = ("PASS", "WARN", "FAIL")
_CONFIGURE = "correct that option; lxc-userns config check has all of them"
_AS_ROOT = "run this as root, with /proc, /sys and /etc as they are usually"


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a check.

    :param status: how good that is.
    :param message: what is so.
    :param remedy: what to do; empty for ``PASS``, and only then.
    """

    status: Status
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.status == "PASS") == bool(self.remedy):
            raise ValueError(f"{self.status} with remedy {self.remedy!r}")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    :param name: what.
    :param status: as in :class:`Result`.
    :param message: as there.
    :param remedy: as there.
    """

    name: str
    status: Status
    message: str
    remedy: str = ""

    @classmethod
    def of(cls, name: str, result: Result) -> Check:
        """Return a check with this result."""
        return cls(name, result.status, result.message, result.remedy)


@dataclass(frozen=True, slots=True)
class Probe:
    """Look at one thing.

    :param name: what.
    :param look: looks, and judges.
    :param otherwise: status if that raises.
    :param remedy: what to do then; empty if it depends on the error.
    """

    name: str
    run: Callable[[], Result]
    status_on_error: Status = "FAIL"
    remedy: str = ""

    def check(self) -> Check:
        """Look; whatever that raises is the result of this one alone."""
        try:
            result = self.run()
        except Exception as err:
            result = Result(
                self.status_on_error, describe(err), self._advise(err)
            )
        return Check.of(self.name, result)

    def _advise(self, err: Exception) -> str:
        if isinstance(err, ConfigError):
            return _CONFIGURE
        return self.remedy or _AS_ROOT


def passed(message: str) -> Result:
    """Return a result that is good."""
    return Result("PASS", message)


def warned(message: str, remedy: str) -> Result:
    """Return a result that is not so good."""
    return Result("WARN", message, remedy)


def failed(message: str, remedy: str) -> Result:
    """Return a result with which nothing works."""
    return Result("FAIL", message, remedy)


def combine(good: str, bad: list[Result]) -> Result:
    """Return the worst of several results, with what all of the bad ones say.

    :param good: what is so in any case.
    :param bad: results that are not ``PASS``.
    """
    if not bad:
        return passed(good)
    return Result(
        max((each.status for each in bad), key=_GRAVITY.index),
        "; ".join([good, *(each.message for each in bad)]),
        "; ".join(dict.fromkeys(each.remedy for each in bad)),
    )


def split(text: str, otherwise: str) -> tuple[str, str]:
    """Split an error's text into what is wrong and what to do.

    :param text: ``what is wrong; what to do``.
    :param otherwise: what to do if the text does not say it.
    """
    message, _, remedy = text.partition("; ")
    return message, remedy or otherwise


def describe(err: Exception) -> str:
    """Return an error in one line, with the file that it is about."""
    text = str(err) or type(err).__name__
    if isinstance(err, OSError) and err.strerror:
        text = err.strerror
        if err.filename:
            text = f"{err.filename}: {text}"
    return " ".join(text.split())
