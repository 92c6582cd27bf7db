# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns host``: the machine."""

from __future__ import annotations

import argparse
from dataclasses import astuple
from typing import TYPE_CHECKING

from cliff.lister import Lister

from lxc_userns.cli.base import ConfiguredCommand

if TYPE_CHECKING:
    from lxc_userns.guest import Guests


class Check(ConfiguredCommand, Lister):
    """Try what containers in user namespaces need of this host.

    Each check is PASS, WARN or FAIL; the last two come with a remedy. Exit
    code 1 if one is FAIL.
    """

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Try everything."""
        from lxc_userns import host

        checks = host.check_host(self.conf, _connect)
        self.failed = any(check.status == "FAIL" for check in checks)
        columns = ("check", "status", "message", "remedy")
        return columns, [*map(astuple, checks)]


def _connect() -> Guests:
    # Loads libvirt, which a host may lack as well.
    from lxc_userns import guest

    guest.silence()
    return guest.Guests()
