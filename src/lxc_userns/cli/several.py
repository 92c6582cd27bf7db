# SPDX-License-Identifier: Apache-2.0
"""Commands on one container, on several, or on all."""

from __future__ import annotations

import argparse
import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import compress
from typing import Any

from cliff.formatters.base import ListFormatter
from cliff.show import ShowOne

from lxc_userns.cli.base import require_root
from lxc_userns.cli.container import ContainerCommand, Shown
from lxc_userns.cli.exit_codes import exit_code, worst
from lxc_userns.cli.main import usage_error

_LOG = logging.getLogger(__name__)
Row = tuple[Any, ...]
_SEPARATOR = "--"


def _parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """Parse names with options between them; after ``--`` are names alone.

    argparse would take such a name for an option, and "--all" for all.
    """
    words, names = [*arguments], []
    if _SEPARATOR in words:
        position = words.index(_SEPARATOR)
        words, names = words[:position], words[position + 1 :]
    found = parser.parse_intermixed_args(words)
    found.names = [*found.names, *names]
    return found


class ShowsOneOrList(ContainerCommand, ShowOne):
    """A command that shows one thing, or a list of rows."""

    #: What a table of a list has room for.
    table_columns: tuple[str, ...]

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Any],
    ) -> int:
        """Print one container, or a list."""
        if not isinstance(data, list):
            return super().produce_output(parsed_args, column_names, data)
        is_table = parsed_args.formatter == "table"
        if is_table and not parsed_args.columns:
            parsed_args.columns = [*self.table_columns]
        columns, selector = self._generate_columns_and_selector(
            parsed_args, column_names
        )
        rows = data
        if selector is not None:
            rows = [tuple(compress(row, selector)) for row in data]
        self._emit(columns, rows, parsed_args)
        return 0

    def _emit(
        self,
        columns: Sequence[str],
        rows: list[Row],
        parsed_args: argparse.Namespace,
    ) -> None:
        out = self.app.stdout
        rows = self.for_reader(parsed_args, rows)
        if isinstance(self.formatter, ListFormatter):
            self.formatter.emit_list(columns, rows, out, parsed_args)
            return
        for row in rows:
            self.formatter.emit_one(columns, row, out, parsed_args)


class OnSeveral(ContainerCommand):
    """A command on containers that are named, or on all of ours.

    The failure of one keeps no other from its turn. The exit code is that of
    the worst, see :func:`lxc_userns.cli.exit_codes.worst`.
    """

    all_help = "All containers of this package."
    #: Of which the command is to be done with ``--all``: of those that run,
    #: of those that do not, or of both (None).
    active: bool | None = None
    _worst = 0

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add names, and ``--all``."""
        parser.add_argument(
            "names",
            nargs="*",
            metavar="NAME",
            help="Names of containers, or their UUIDs.",
        )
        parser.add_argument("--all", action="store_true", help=self.all_help)
        parser.parse_args = partial(  # type: ignore[assignment]
            _parse, parser
        )
        self._refuse = partial(usage_error, parser)

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run it, and return the worst exit code."""
        return worst(super().run(parsed_args), self._worst)

    def is_one(self, parsed_args: argparse.Namespace) -> bool:
        """Return whether it is about one container, which is named."""
        return not parsed_args.all and len(parsed_args.names) == 1

    @abstractmethod
    def act(self, name: str, parsed_args: argparse.Namespace) -> Any:
        """Do something with one container, and return what comes of it."""

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        """Do it with each container."""
        self.on_each(parsed_args)

    def on_each(self, parsed_args: argparse.Namespace) -> list[Any]:
        """Do it with each container; return what comes of it.

        :raises Exception: what an only one raises.
        """
        if parsed_args.all == bool(parsed_args.names):
            self._refuse("expected either NAME or --all")
        require_root()
        if self.is_one(parsed_args):
            only = self.find_name(*parsed_args.names)
            return [self.act(only, parsed_args)]
        results: list[Any] = []
        # One after the other: threads would wait for each other more than for
        # anything else. And in this one an interrupt undoes what is half done.
        for name in [*self._names(parsed_args)]:
            try:
                results.append(self.act(name, parsed_args))
            except Exception as err:
                _LOG.error(err, exc_info=self.app.options.debug)
                self._worst = worst(self._worst, exit_code(err))
        return results

    def _names(self, parsed_args: argparse.Namespace) -> Iterable[str]:
        if parsed_args.all:
            return self.containers.names(active=self.active)
        return dict.fromkeys(map(self.find_name, parsed_args.names))


class ShowsSeveral(OnSeveral, ShowsOneOrList):
    """A command that shows one container, or a list of them."""

    table_columns: tuple[str, ...] = ("name", "state", "mode", "init_pid")

    @abstractmethod
    def act(self, name: str, parsed_args: argparse.Namespace) -> Shown:
        """Do something with one container; return its columns and values."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], Row | list[Row]]:
        """Do it with each container, and return what is to be shown."""
        results: list[Shown] = self.on_each(parsed_args)
        if self.is_one(parsed_args):
            return results[0]
        columns = results[0][0] if results else self.table_columns
        return columns, [values for _, values in results]
