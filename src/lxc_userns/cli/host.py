# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns host``: the machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister

from lxc_userns.cli.base import ConfiguredCommand, require_root
from lxc_userns.findings import Finding, Severity


class Check(ConfiguredCommand, Lister):
    """Try what containers in user namespaces need of this host.

    Each check is PASS, WARN or FAIL; the last two come with a remedy. On a
    terminal each has a line, with the remedy below, and a verdict ends it;
    NO_COLOR is respected. Exit code 1 if one is FAIL.
    """

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Try everything."""
        from lxc_userns.cli import report

        checks = self.look()
        self.failed = any(check.severity >= Severity.ERROR for check in checks)
        if parsed_args.formatter == "table":
            checks = report.merge_mounts(checks)
        self._checks = checks
        columns = ("check", "status", "message", "remedy")
        return columns, [
            (
                each.code,
                report.LABELS[each.severity],
                each.message,
                each.remedy,
            )
            for each in checks
        ]

    def look(self) -> list[Finding]:
        """Return what is found."""
        from lxc_userns import host

        return host.check_host(self.conf, lambda: self.guests)

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Any],
    ) -> int:
        """Print them; as lines, to who reads them on a terminal."""
        from lxc_userns.cli import report

        out = self.app.stdout
        is_table = parsed_args.formatter == "table" and not parsed_args.columns
        if not (is_table and out.isatty()):
            return super().produce_output(parsed_args, column_names, data)
        colours = report.wants_colours()
        for line in report.render(self._checks, colours=colours):
            out.write(f"{line}\n")
        return 0


class HookInstall(ConfiguredCommand):
    """Install libvirt's hook, for domains that virsh and the like start.

    The running libvirtd is told to look for it. It reads the files of
    --config-file if they are given here.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Install it."""
        from lxc_userns.host import hook

        require_root()
        _ = self.conf  # A hook that cannot read it lets nothing start.
        path = hook.install(self.app.options.config_file or ())
        self.app.stdout.write(f"{path} installed\n")


class HookRemove(ConfiguredCommand):
    """Remove libvirt's hook; that of others stays.

    Domains that rely on it do not start then.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Remove it."""
        from lxc_userns.host import hook

        require_root()
        done = "removed" if hook.remove() else "was not installed"
        self.app.stdout.write(f"{hook.HOOK} {done}\n")
