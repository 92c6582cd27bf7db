# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns rootfs pack``."""

from __future__ import annotations

import argparse
from typing import Any

from cliff.show import ShowOne

from lxc_userns.cli.base import (
    BYTES,
    ConfiguredCommand,
    add_map_arguments,
    given_id_maps,
    progress_bar,
)


class Pack(ConfiguredCommand, ShowOne):
    """Pack a root filesystem to a tar archive with guest IDs.

    Nothing changes on disk, whether it is shifted or not; rootfs unpack makes
    the same tree of the archive for any ID maps, and container run takes it
    too. Device nodes and sockets are left out, and counted as skipped and
    sockets. Volumes, and all else that is mounted in the tree, are not in it.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what goes where."""
        parser.add_argument(
            "path",
            metavar="PATH",
            help="Directory or raw disk image of the root filesystem, or the "
            "name of an instance, which is not running.",
        )
        parser.add_argument(
            "archive",
            metavar="ARCHIVE",
            help="File to make, which is not there yet; its name ends in "
            ".tar, .tar.gz, .tar.xz, .tar.zst, .tgz, .txz or .tzst.",
        )
        add_map_arguments(
            parser,
            "what the tree says that it is shifted for, if it is",
        )
        parser.add_argument(
            "--live",
            action="store_true",
            help="Pack a directory while its container runs: each file is as "
            "it was at some moment, and not all at the same.",
        )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Pack."""
        from lxc_userns import pack_by_hand

        id_maps = given_id_maps(parsed_args)
        with progress_bar("pack", BYTES) as progress:
            report = pack_by_hand.pack(
                self.services,
                parsed_args.path,
                parsed_args.archive,
                pack_by_hand.PackOptions(id_maps, parsed_args.live, progress),
            )
        return (
            ("inodes", "skipped", "sockets", "changed"),
            (report.inodes, report.skipped, report.sockets, report.changed),
        )
