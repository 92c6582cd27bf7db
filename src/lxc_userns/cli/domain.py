# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns domain``: domain XML of others."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cliff.formatters.base import ListFormatter
from cliff.lister import Lister
from stevedore.extension import Extension, ExtensionManager

from lxc_userns.cli.base import ConfiguredCommand, add_map_arguments
from lxc_userns.cli.main import PROGRAM
from lxc_userns.exceptions import DomainXmlError

if TYPE_CHECKING:
    from lxc_userns.audit import Finding

#: All columns, and those of a table, which has little room.
_COLUMNS = ("code", "severity", "message", "remedy", "xpath", "line")
_TABLE_COLUMNS = ("severity", "code", "line", "message", "remedy")


class IdMap(ConfiguredCommand):
    """Print domain XML with <idmap> added, or replaced.

    A domain without a network interface gets <privnet/> too: with ID maps it
    could not start in the host's network. All the rest, and ID maps that are
    these already, stay byte for byte.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the file."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "file", metavar="FILE", help="Domain XML; - for standard input."
        )
        add_map_arguments(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Print it."""
        # libxml2 takes its time to load.
        from lxc_userns.domain import add_id_maps

        id_maps = self.id_maps(parsed_args)
        text = add_id_maps(read_text(parsed_args.file), id_maps)
        out = self.app.stdout
        out.write(text)
        # A file stays byte for byte what it is.
        if out.isatty() and not text.endswith("\n"):
            out.write("\n")


class Audit(ConfiguredCommand, Lister):
    """Find what weakens the isolation of a domain from its host.

    Of a domain by name, the host is looked at as well: who else has its IDs,
    who can reach its root filesystem, the version of control groups.

    Exit code 1 if there is a finding of the given severity, or a worse one.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what to look at, and the severity."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "domain",
            metavar="FILE|NAME",
            help="Domain XML, - for standard input; or the name of a domain "
            "that libvirt knows, if it has no slash and no file has it.",
        )
        parser.add_argument(
            "--severity",
            type=str.upper,
            choices=("INFO", "WARN", "HIGH", "ERROR", "CRITICAL"),
            default="HIGH",
            help="What to fail on (default: %(default)s).",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Look for everything."""
        from lxc_userns.audit import Severity

        findings = self._audit(parsed_args.domain)
        least = Severity[parsed_args.severity]
        self.failed = any(each.severity >= least for each in findings)
        columns: tuple[str, ...] = _COLUMNS
        if parsed_args.formatter == "table" and not parsed_args.columns:
            columns = _TABLE_COLUMNS
        if parsed_args.formatter == _Sarif.NAME:
            # Columns are not for it.
            parsed_args.columns = []
            return ("finding",), [(each,) for each in findings]
        return columns, [
            tuple(_plain(getattr(each, name)) for name in columns)
            for each in findings
        ]

    def _audit(self, name: str) -> list[Finding]:
        run_path = self.settings.run_path
        if _is_file(name):
            from lxc_userns.audit import audit_domain

            return audit_domain(read_text(name), run_path=run_path)
        from lxc_userns.audit.host_audit import Auditor

        return Auditor(self.services).audit(name)

    def _load_formatter_plugins(self) -> ExtensionManager[ListFormatter]:
        # An entry point would show in other programs that use cliff.
        plugins = super()._load_formatter_plugins()
        first = plugins.extensions[0]
        plugins.extensions.append(
            Extension(_Sarif.NAME, first.entry_point, _Sarif, _Sarif())
        )
        return plugins


class _Sarif(ListFormatter):
    """Findings for CI services."""

    NAME = "sarif"

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """Nothing can be chosen."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write the one column, of findings."""
        from importlib import metadata

        from lxc_userns.audit.sarif import to_sarif

        name = parsed_args.domain
        log = to_sarif(
            (finding for (finding,) in data),
            version=metadata.version(PROGRAM),
            file=name if name != "-" and _is_file(name) else None,
        )
        json.dump(log, stdout, indent=2)
        stdout.write("\n")


def _plain(value: object) -> object:
    """A value as all formats show it; a severity is a number to JSON."""
    return value if value is None or type(value) is int else str(value)


def _is_file(name: str) -> bool:
    return name == "-" or "/" in name or os.path.lexists(name)


def read_text(name: str) -> str:
    """Return the text of a file, or of standard input for ``-``.

    :raises DomainXmlError: if it is not UTF-8.
    """
    # Also when it was closed: then there is no sys.stdin.
    file: str | int = 0 if name == "-" else name
    with open(file, "rb", closefd=name != "-") as stream:
        data = stream.read()
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise DomainXmlError(f"{name}: not UTF-8 text: {err}") from err
