# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns domain convert`` and ``prepare``: domains for the hook."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from lxc_userns.cli.base import (
    ConfiguredCommand,
    progress_bar,
    require_root,
)
from lxc_userns.cli.domain import read_text
from lxc_userns.cli.main import usage_error
from lxc_userns.spec.strategy import CHOICES

if TYPE_CHECKING:
    from lxc_userns.conversion import Converter


class _ConversionCommand(ConfiguredCommand):
    @property
    def converter(self) -> Converter:
        """Converter of this host's domains."""
        from lxc_userns.conversion import Converter

        return Converter(self.manager, self.services)


class Convert(_ConversionCommand):
    """Make an ordinary container's domain one that the hook serves.

    It gets ID maps, views in place of its filesystems, and a mark for
    libvirt's hook, which prepares it at each start; see host hook install.
    What keeps it from running in a user namespace is told, all at once.
    Converting again changes nothing.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the domain, and what to do with it."""
        parser.add_argument(
            "domain",
            metavar="FILE|NAME",
            help="Domain XML, - for standard input, which is printed "
            "converted; with --in-place the name of a stopped domain.",
        )
        parser.add_argument(
            "--strategy",
            choices=[each.value for each in CHOICES],
            help="How its files come to belong to the mapped IDs (default: "
            "as it was converted, or [lxc_userns] rootfs_strategy).",
        )
        parser.add_argument(
            "--in-place",
            action="store_true",
            help="Define the domain of this name anew.",
        )
        parser.add_argument(
            "--revert",
            action="store_true",
            help="With --in-place: back to what it was before. Files that "
            "are shifted on disk stay so; see rootfs unshift.",
        )
        parser.add_argument(
            "--discard",
            action="store_true",
            help="With --revert: remove what it has changed on its overlay.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Convert it."""
        require_root()
        self._check_options(parsed_args)
        if parsed_args.revert:
            self.converter.revert(
                parsed_args.domain, discard=parsed_args.discard
            )
        elif parsed_args.in_place:
            self.converter.convert_in_place(
                parsed_args.domain, parsed_args.strategy
            )
        else:
            text = _read_file(parsed_args.domain)
            self.app.stdout.write(
                self.converter.convert(text, parsed_args.strategy)
            )

    def _check_options(self, parsed_args: argparse.Namespace) -> None:
        """Refuse options that would be without effect."""
        if parsed_args.revert and not parsed_args.in_place:
            self._refuse("--revert needs --in-place")
        if parsed_args.revert and parsed_args.strategy:
            self._refuse("--revert takes no --strategy")
        if parsed_args.discard and not parsed_args.revert:
            self._refuse("--discard needs --revert")

    def _refuse(self, message: str) -> NoReturn:
        usage_error(self.get_parser("lxc-userns domain convert"), message)


def _read_file(name: str) -> str:
    try:
        return read_text(name)
    except FileNotFoundError as err:
        if "/" not in name:
            err.add_note("the domain of a name is converted by --in-place")
        raise


class Prepare(_ConversionCommand):
    """Prepare a converted domain, as far as that may take long.

    The hook does the rest at each start: libvirtd answers no one while it
    runs, so that it neither shifts nor unpacks.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the name."""
        parser.add_argument(
            "name", metavar="NAME", help="Name of a converted domain."
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Prepare it."""
        require_root()
        with progress_bar("shift") as progress:
            self.converter.prepare(parsed_args.name, progress)
