# SPDX-License-Identifier: Apache-2.0
"""Checks of one thing each, and their findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lxc_userns.commands import command
from lxc_userns.exceptions import ConfigError
from lxc_userns.findings import Finding, Severity

_AS_ROOT = "run this as root, with /proc, /sys and /etc as they are usually"


@dataclass(frozen=True, slots=True)
class Probe:
    """Check of one thing.

    :param name: name of the thing.
    :param run: looks at it; its finding has no code yet.
    :param severity_on_error: severity if that raises.
    :param remedy: what to do then; empty if it depends on the error.
    """

    name: str
    run: Callable[[], Finding]
    severity_on_error: Severity = Severity.ERROR
    remedy: str = ""

    def check(self) -> Finding:
        """Look; whatever that raises is the result of this one alone."""
        try:
            result = self.run()
        except Exception as err:
            result = Finding(
                severity=self.severity_on_error,
                code="",
                subject="",
                message=describe(err),
                remedy=self._advise(err),
            )
        return named(self.name, result)

    def _advise(self, err: Exception) -> str:
        if isinstance(err, ConfigError):
            everything = command("config", "check")
            return f"correct that option; {everything} has all of them"
        return self.remedy or _AS_ROOT


def named(name: str, result: Finding) -> Finding:
    """Return a finding with the name of its check."""
    return replace(result, code=name)


def passed(message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(
        severity=Severity.INFO, code="", subject="", message=message
    )


def warned(message: str, remedy: str) -> Finding:
    """Return a finding that not all containers work, or not as well."""
    return _bad(Severity.WARN, message, remedy)


def failed(message: str, remedy: str) -> Finding:
    """Return a finding that no container in a user namespace works."""
    return _bad(Severity.ERROR, message, remedy)


def _bad(severity: Severity, message: str, remedy: str) -> Finding:
    if not remedy:
        raise ValueError(f"{message}: has no remedy")
    return Finding(
        severity=severity, code="", subject="", message=message, remedy=remedy
    )


def combine(good: str, bad: list[Finding]) -> Finding:
    """Return the worst of several findings, with what all bad ones say.

    :param good: what is so in any case.
    :param bad: those that are not good.
    """
    if not bad:
        return passed(good)
    return Finding(
        severity=max(each.severity for each in bad),
        code="",
        subject="",
        message="; ".join([good, *(each.message for each in bad)]),
        remedy="; ".join(dict.fromkeys(each.remedy for each in bad)),
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
