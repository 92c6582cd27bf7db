# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container logs``: what was written about a container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from lxc_userns.cli.container import OnOne

if TYPE_CHECKING:
    from lxc_userns.containers.logs import LogLine


class Logs(OnOne):
    """Show what a container printed in its last run, and libvirt's log of it.

    Each line says which of the two it is of: "console", of which about a MiB
    is kept, or "libvirt". On a terminal control characters are escaped;
    elsewhere they are as they were written.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add how much."""
        super().add_arguments(parser)
        parser.add_argument(
            "--follow",
            action="store_true",
            help="Go on with what is written, until the container has ended.",
        )
        parser.add_argument(
            "--lines",
            type=_count,
            metavar="N",
            help="Of each no more than the last N lines (default: all).",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Show them."""
        name = self.name(parsed_args)
        from lxc_userns.containers.logs import Logs

        with closing(Logs(self.services, name)) as logs:
            self._write(logs.read(parsed_args.lines))
            if parsed_args.follow:
                self._write(logs.follow())

    def _write(self, lines: Iterator[LogLine]) -> None:
        from lxc_userns.text import escape

        out = self.app.stdout
        is_terminal = out.isatty()
        for line in lines:
            if is_terminal:
                text = line.text.decode(errors="backslashreplace")
                out.write(f"{line.source}: {escape(text.expandtabs())}\n")
            else:
                out.buffer.write(
                    b"%s: %s\n" % (line.source.encode(), line.text)
                )
            out.flush()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(
            f"{text}: expected a number of lines, 0 or more"
        )
    return min(int(text), sys.maxsize)
