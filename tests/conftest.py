# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests."""

from collections import Counter

import hypothesis
import pytest

# A deadline would make the result depend on how busy the machine is.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> None:
    """Name each reason for a skip once, however many tests it has."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
    )
    for reason, tests in reasons.items():
        terminalreporter.write_line(f"{tests} skipped: {reason}")
