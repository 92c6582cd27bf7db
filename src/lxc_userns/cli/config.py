# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns config``: the configuration."""

from __future__ import annotations

import argparse

from cliff.lister import Lister

from lxc_userns.cli.base import ConfiguredCommand
from lxc_userns.findings import Severity

_LABELS = {
    Severity.ERROR: "problem",
    Severity.WARN: "warning",
    Severity.INFO: "info",
}


class Check(ConfiguredCommand, Lister):
    """Show what the configuration gives, and every problem at once.

    Exit code 1 if there is a problem. A line of the user lxc-userns in
    /etc/subuid or /etc/subgid keeps these IDs from being given to users; IDs
    that anybody else holds are a problem.
    """

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Check everything."""
        from lxc_userns.config.check import check_config

        findings = check_config(self.conf)
        self.failed = any(each.severity >= Severity.ERROR for each in findings)
        columns = ("severity", "option", "value", "message")
        return columns, [
            (
                _LABELS[each.severity],
                each.code,
                each.subject,
                each.message,
            )
            for each in findings
        ]
