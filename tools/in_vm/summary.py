# SPDX-License-Identifier: Apache-2.0
"""Summary of the tests that ran in the guest, from pytest's own report."""

import dataclasses
from collections.abc import Iterable
from typing import IO
from xml.etree import ElementTree

#: Element of a test that did not pass, and what it is counted as.
_OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


@dataclasses.dataclass(slots=True)
class Counts:
    """Numbers of tests by their outcome, and the seconds they took."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        return (
            f"{self.passed:>6} passed {self.failed:>4} failed "
            f"{self.skipped:>4} skipped {self.seconds:>7.0f} s"
        )

    @property
    def is_good(self) -> bool:
        """Whether all passed, of at least one; what is skipped did not run."""
        return self.passed > 0 and not self.failed and not self.skipped


def read_report(file: IO[bytes]) -> dict[str, Counts]:
    """Read pytest's ``--junit-xml``, module by module.

    :raises xml.etree.ElementTree.ParseError: if it is not whole.
    """
    found: dict[str, Counts] = {}
    # Of tests of our own, in a guest of our own.
    root = ElementTree.parse(file).getroot()  # noqa: S314
    for case in root.iter("testcase"):
        module = case.get("classname", "").split(".")[2]
        counts = Counts(seconds=float(case.get("time", "0")))
        # One that fails in its teardown too has two elements.
        outcomes = {_OUTCOMES.get(each.tag) for each in case} - {None}
        outcome = min(outcomes, default="passed", key=str)
        setattr(counts, str(outcome), 1)
        found[module] = found.get(module, Counts()) + counts
    return found


def sum_up(modules: Iterable[Counts]) -> Counts:
    """Add up what was counted."""
    return sum(modules, Counts())


def write_summary(modules: dict[str, Counts], seconds: float) -> str:
    """Write a table, and a last line of all.

    :param seconds: that all of it took, with the guest's start.
    """
    rows = [*modules.items(), ("all", sum_up(modules.values()))]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}} {counts}" for name, counts in rows]
    return "\n".join((*lines, f"  from power-on to the end {seconds:.0f} s"))
