# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns domain``: domain XML of others."""

from __future__ import annotations

import argparse

from lxc_userns.cli.base import ConfiguredCommand, add_map_arguments
from lxc_userns.exceptions import DomainXmlError


class IdMap(ConfiguredCommand):
    """Print domain XML with <idmap> added, or replaced.

    A domain without a network interface gets <privnet/> too: with ID maps it
    could not start in the host's network.
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
        text = add_id_maps(_read(parsed_args.file), id_maps)
        self.app.stdout.write(text if text.endswith("\n") else f"{text}\n")


def _read(name: str) -> str:
    # Also when it was closed: then there is no sys.stdin.
    file: str | int = 0 if name == "-" else name
    with open(file, "rb", closefd=name != "-") as stream:
        data = stream.read()
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise DomainXmlError(f"{name}: not UTF-8 text: {err}") from err
