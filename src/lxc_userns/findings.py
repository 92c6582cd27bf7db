# SPDX-License-Identifier: Apache-2.0
"""Findings of audits and checks, on one scale of severity."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """Severity of a finding; severities can be compared.

    ``INFO``: all is well, or there is nothing to do. ``WARN``: it works, not
    always or not as well as it could. ``HIGH``: isolation is weak.
    ``ERROR``: it does not work: a container does not start, or not always; a
    configuration cannot be used. ``CRITICAL``: there is no isolation.
    """

    INFO = 1
    WARN = 2
    HIGH = 3
    ERROR = 4
    CRITICAL = 5

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to say about a domain, a host or a configuration.

    :param severity: how bad it is.
    :param code: what was looked at, a stable name: a rule of the audit, a
        check of the host, an option with its section.
    :param subject: what it was found in: an XPath, an option's value; empty
        for the whole.
    :param message: the reason, with the offending value.
    :param remedy: what to do; empty if there is nothing, or the message says
        it.
    """

    severity: Severity
    code: str
    subject: str
    message: str
    remedy: str = ""
