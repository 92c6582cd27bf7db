# SPDX-License-Identifier: Apache-2.0
"""Checks of the host as people read them, on a terminal."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from lxc_userns.findings import Finding, Severity
from lxc_userns.host.filesystems import NAME
from lxc_userns.text import escape

#: What a severity is called.
LABELS: Final[Mapping[Severity, str]] = {
    Severity.INFO: "PASS",
    Severity.WARN: "WARN",
    Severity.ERROR: "FAIL",
}
_COLOURS: Final[Mapping[Severity, str]] = {
    Severity.INFO: "\x1b[32m",
    Severity.WARN: "\x1b[33m",
    Severity.ERROR: "\x1b[31m",
}
_PLAIN: Final = "\x1b[0m"
_INDENT: Final = " " * 6
_NARROWEST: Final = 40
_MOST_POINTS: Final = 3


def merge_mounts(checks: Sequence[Finding]) -> list[Finding]:
    """Return the checks with one for each kind of filesystem.

    :param checks: of these, one for each mount.
    """
    merged: dict[tuple[Severity, str, str], list[str]] = {}
    others = []
    for check in checks:
        _, is_mount, point = check.code.partition(f"{NAME} on ")
        if is_mount:
            kind = (check.severity, check.message, check.remedy)
            merged.setdefault(kind, []).append(point)
        else:
            others.append(check)
    return others + [
        Finding(
            severity=severity,
            code=NAME,
            subject="",
            message=f"{message} ({_shown(points)})",
            remedy=remedy,
        )
        for (severity, message, remedy), points in merged.items()
    ]


def _shown(points: Sequence[str]) -> str:
    shown = ", ".join(points[:_MOST_POINTS])
    more = len(points) - _MOST_POINTS
    return f"{shown} and {more} more" if more > 0 else shown


def render(checks: Sequence[Finding], *, colours: bool) -> Iterator[str]:
    """Return the lines of a report: one check each, and a verdict.

    What is not PASS has its remedy below.

    :param colours: whether the terminal shows them.
    """
    width = max(shutil.get_terminal_size().columns, _NARROWEST)
    for check in checks:
        text = f"{check.code}: {check.message}"
        lines = _wrap(text, width - len(_INDENT)) or [text]
        yield f"{_label(check.severity, colours)}  {lines[0]}"
        yield from (f"{_INDENT}{line}" for line in lines[1:])
        if check.remedy:
            yield from _wrap(
                check.remedy,
                width,
                first=f"{_INDENT}-> ",
                rest=f"{_INDENT}   ",
            )
    yield ""
    yield _verdict(checks, colours)


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Return lines with all escaped that a terminal acts upon.

    :param first: beginning of the first line.
    :param rest: that of the others.
    """
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest
    )
    return [*map(escape, lines)]


def wants_colours(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a terminal is to be written to in colours.

    Not if NO_COLOR is set and not empty (https://no-color.org).
    """
    return not environment.get("NO_COLOR") and (
        environment.get("TERM") != "dumb"
    )


def _label(severity: Severity, colours: bool) -> str:
    label = LABELS[severity]
    return f"{_COLOURS[severity]}{label}{_PLAIN}" if colours else label


def _verdict(checks: Sequence[Finding], colours: bool) -> str:
    counts = {
        severity: sum(each.severity == severity for each in checks)
        for severity in _COLOURS
    }
    if counts[Severity.ERROR]:
        text = (
            f"no container runs in a user namespace here before what is FAIL "
            f"is mended ({counts[Severity.ERROR]} of {len(checks)} checks)"
        )
        return f"{_label(Severity.ERROR, colours)}  {text}"
    if counts[Severity.WARN]:
        text = (
            "containers run in user namespaces here, not all of them or not "
            f"as well as they could ({counts[Severity.WARN]} of "
            f"{len(checks)} checks)"
        )
        return f"{_label(Severity.WARN, colours)}  {text}"
    text = f"this host is ready ({len(checks)} checks)"
    return f"{_label(Severity.INFO, colours)}  {text}"
