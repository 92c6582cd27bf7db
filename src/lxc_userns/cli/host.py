# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns host``: the machine."""

from __future__ import annotations

import argparse
from dataclasses import astuple

from cliff.lister import Lister

from lxc_userns.cli.base import ConfiguredCommand


class Check(ConfiguredCommand, Lister):
    """Try what containers in user namespaces need of this host.

    Exit code 1 if anything is missing.
    """

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Try everything."""
        from lxc_userns import host

        checks = host.check_host(self.conf, self.manager.guests)
        self.failed = any(check.status == "failed" for check in checks)
        return ("check", "status", "message"), [*map(astuple, checks)]
