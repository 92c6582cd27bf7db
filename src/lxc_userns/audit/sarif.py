# SPDX-License-Identifier: Apache-2.0
"""Findings in SARIF 2.1.0, the format in which CI services take them.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from lxc_userns.audit.finding import Finding, Rule
from lxc_userns.audit.rules import RULES
from lxc_userns.findings import Severity

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_TOOL: Final = "lxc-userns"

_LEVELS: Final = {
    Severity.INFO: "note",
    Severity.WARN: "warning",
    Severity.HIGH: "error",
    Severity.ERROR: "error",
    Severity.CRITICAL: "error",
}
#: What GitHub sorts by: below 4.0 is low, below 7.0 medium, from 9.0 critical.
_SCORES: Final = {
    Severity.INFO: "2.0",
    Severity.WARN: "5.0",
    Severity.HIGH: "8.0",
    Severity.ERROR: "8.5",
    Severity.CRITICAL: "9.5",
}
_INDEX: Final = {rule.code: number for number, rule in enumerate(RULES)}


def to_sarif(
    findings: Iterable[Finding], *, version: str, file: str | None
) -> dict[str, Any]:
    """Return a log with one run, for :func:`json.dump`.

    :param findings: what was found.
    :param version: version of this package.
    :param file: name of the file with the XML, as it was given; None if it
        was in none.
    """
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": _TOOL,
                        "version": version,
                        "rules": [_rule(each) for each in RULES],
                    }
                },
                "results": [_result(each, file) for each in findings],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(map(str.capitalize, rule.code.split("-"))),
        "shortDescription": {"text": _sentence(rule.title)},
        "fullDescription": {"text": rule.rationale},
        "help": {"text": f"{rule.rationale} What to do: {rule.remedy}."},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {
            "security-severity": _SCORES[rule.severity],
            "tags": ["security"],
        },
    }


def _result(finding: Finding, file: str | None) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [
            {"fullyQualifiedName": finding.xpath, "kind": "element"}
        ]
    }
    if file is not None:
        physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(file)}}
        if finding.line is not None:
            physical["region"] = {"startLine": finding.line}
        location["physicalLocation"] = physical
    return {
        "ruleId": finding.code,
        "ruleIndex": _INDEX[finding.code],
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. {_sentence(finding.remedy)}"},
        "locations": [location],
        "properties": {"severity": str(finding.severity)},
    }


def _uri(file: str) -> str:
    # Two slashes at the beginning would be followed by a host's name.
    path = f"/{file.lstrip('/')}" if file.startswith("/") else file
    return quote(path, errors="surrogateescape")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
