# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns domain``: domain XML of others."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from cliff.formatters.base import ListFormatter
from cliff.lister import Lister
from stevedore.extension import Extension, ExtensionManager

from lxc_userns.cli.base import ConfiguredCommand, add_map_arguments
from lxc_userns.cli.exit_codes import exit_code, worst
from lxc_userns.cli.main import PROGRAM, usage_error
from lxc_userns.exceptions import DomainXmlError

if TYPE_CHECKING:
    from lxc_userns.audit import Finding

_LOG = logging.getLogger(__name__)

#: All columns, and those of a table, which has little room.
_COLUMNS = ("code", "severity", "message", "remedy", "xpath", "line")
_TABLE_COLUMNS = ("severity", "code", "line", "message", "remedy")


class IdMap(ConfiguredCommand):
    """Print domain XML with <idmap> added, or replaced.

    A domain without a network interface gets <privnet/> too: with ID maps it
    could not start in the host's network. All the rest, and ID maps that are
    these already, stay byte for byte.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the file."""
        parser.add_argument(
            "file", metavar="FILE", help="Domain XML; - for standard input."
        )
        add_map_arguments(parser)

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
    """Find what weakens the isolation of domains from their host.

    Of a domain by name, the host is looked at as well: who else has its IDs,
    who can reach its root filesystem, the version of control groups.

    Exit code 1 if there is a finding of the given severity, or a worse one.
    """

    _worst = 0

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what to look at, and the severity."""
        parser.add_argument(
            "domain",
            nargs="?",
            metavar="FILE|NAME",
            help="Domain XML, - for standard input; or the name of a domain "
            "that libvirt knows, if it has no slash and no file has it.",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="All domains that libvirt knows, whoever has made them.",
        )
        self._refuse = partial(usage_error, parser)
        parser.add_argument(
            "--severity",
            type=str.upper,
            choices=("INFO", "WARN", "HIGH", "ERROR", "CRITICAL"),
            default="HIGH",
            help="What to fail on (default: %(default)s).",
        )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Look for everything."""
        from lxc_userns.audit import Severity

        if parsed_args.all == (parsed_args.domain is not None):
            self._refuse("expected either FILE|NAME or --all")
        found = [*self._find(parsed_args)]
        least = Severity[parsed_args.severity]
        self.failed = any(each.severity >= least for _, each in found)
        if parsed_args.formatter == _Sarif.NAME:
            # Columns are not for it.
            parsed_args.columns = []
            return ("name", "finding"), found
        columns: tuple[str, ...] = _COLUMNS
        if parsed_args.formatter == "table" and not parsed_args.columns:
            columns = _TABLE_COLUMNS
        rows = [
            (name, *(_plain(getattr(each, column)) for column in columns))
            for name, each in found
        ]
        if parsed_args.all:
            return ("name", *columns), rows
        return columns, [row[1:] for row in rows]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run it, and return the worst exit code."""
        return worst(super().run(parsed_args), self._worst)

    def _find(
        self, parsed_args: argparse.Namespace
    ) -> Iterator[tuple[str, Finding]]:
        """Yield names of domains, each with a finding."""
        name = parsed_args.domain
        if name is not None and _is_file(name):
            from lxc_userns.audit import audit_domain

            run_path = self.settings.run_path
            text = read_text(name)
            for each in audit_domain(text, run_path=run_path):
                yield name, each
            return
        from lxc_userns.audit.host_audit import Auditor

        auditor = Auditor(self.services)
        if name is not None:
            for each in auditor.audit(name):
                yield name, each
            return
        for name in auditor.names:
            try:
                found = auditor.audit(name)
            except Exception as err:
                _LOG.error(err, exc_info=self.app.options.debug)
                self._worst = worst(self._worst, exit_code(err))
            else:
                yield from ((name, each) for each in found)

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
        """Leave out the group: nothing can be chosen."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write findings; of several domains, each with its domain's name."""
        from importlib import metadata

        from lxc_userns.audit.sarif import to_sarif

        name = parsed_args.domain
        findings = (
            replace(each, subject=f"{of}:{each.subject}")
            if name is None
            else each
            for of, each in data
        )
        log = to_sarif(
            findings,
            version=metadata.version(PROGRAM),
            file=name if name not in (None, "-") and _is_file(name) else None,
        )
        json.dump(log, stdout, indent=2)
        stdout.write("\n")


def _plain(value: object) -> object:
    """Return a value as formats show it; to JSON severities are numbers."""
    return value if value is None or type(value) is int else str(value)


def _is_file(name: str) -> bool:
    return name == "-" or "/" in name or os.path.lexists(name)


def read_text(name: str) -> str:
    """Return the text of a file, or of standard input for ``-``.

    :raises DomainXmlError: if it is not UTF-8, or larger than libvirt takes.
    """
    from lxc_userns.domain import MAX_SIZE

    # Also when it was closed: then there is no sys.stdin.
    file: str | int = 0 if name == "-" else name
    with open(file, "rb", closefd=name != "-") as stream:
        data = stream.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise DomainXmlError(
            f"{name}: libvirt takes at most {MAX_SIZE} bytes; shorten it"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise DomainXmlError(f"{name}: not UTF-8 text: {err}") from err
