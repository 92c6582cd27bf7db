# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns rootfs``: owners of root filesystems on disk."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cliff.show import ShowOne

from lxc_userns import rootfs
from lxc_userns.cli.base import (
    ConfiguredCommand,
    add_map_arguments,
    given_id_maps,
    progress_bar,
    unpack_bar,
)
from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import IdMaps
from lxc_userns.rootfs.shifting.ipc import MOST_WORKERS

Shown = tuple[tuple[str, ...], tuple[Any, ...]]


class _OnDisk(ConfiguredCommand, ShowOne):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of all commands that walk a tree."""
        parser.add_argument(
            "path", metavar="PATH", help="Directory of the root filesystem."
        )
        parser.add_argument(
            "--workers",
            type=int,
            metavar="N",
            help="Most worker processes, 0 for one per CPU (default: "
            "[lxc_userns] shift_workers).",
        )

    def workers(self, parsed_args: argparse.Namespace) -> int | None:
        """Return the most worker processes, None for one per CPU."""
        count = parsed_args.workers
        if count is None:
            count = self.settings.shift_workers
        if not 0 <= count <= MOST_WORKERS:
            raise ConfigError(
                "--workers", str(count), f"expected 0 to {MOST_WORKERS}"
            )
        return count or None

    def reserved(
        self, path: str, id_maps: IdMaps | None, dry_run: bool
    ) -> AbstractContextManager[int | None]:
        """Keep the tree from being taken in use while it changes."""
        if dry_run:
            return nullcontext()
        from lxc_userns import shift_by_hand

        return shift_by_hand.reserved(self.services, path, id_maps)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="Only count, change nothing."
    )


def _show(report: rootfs.ShiftReport) -> Shown:
    return (
        (
            "inodes",
            "shifted",
            "unmapped",
            "unmapped_uids",
            "unmapped_gids",
            "devices",
            "linked_outside",
            "split_links",
            "read_only",
        ),
        (
            report.inodes,
            report.shifted,
            report.unmapped,
            list(report.uids),
            list(report.gids),
            report.devices,
            report.linked_outside,
            report.split_links,
            report.read_only,
        ),
    )


class Shift(_OnDisk):
    """Make the owners of a root filesystem host IDs.

    Shifting again costs nothing; an interrupted shift is taken up; a tree
    that is shifted for other ID maps is shifted over to these. Read-only
    btrfs subvolumes in which an owner would change are refused before
    anything is changed, and counted as read_only by --dry-run. Device nodes
    stay root's. A file that has other names (hard links) outside of PATH
    changes there too, which is said on standard error.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the ID maps."""
        super().add_arguments(parser)
        add_map_arguments(parser)
        _add_dry_run(parser)
        parser.add_argument(
            "--unmapped",
            choices=("keep", "nobody", "error"),
            help="What becomes of owners that the maps do not cover "
            "(default: [lxc_userns] unmapped_ids).",
        )
        parser.add_argument(
            "--strict",
            action="store_true",
            help="Change nothing if a file has other names (hard links) "
            "outside of PATH, where its owner would change too, or if its "
            "names would become files of their own on an overlay.",
        )
        parser.add_argument(
            "--recheck",
            action="store_true",
            help="Walk the tree even if it says that it is shifted for these "
            "ID maps: files may have come since.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Shift."""
        path, id_maps = parsed_args.path, self.id_maps(parsed_args)
        unmapped = parsed_args.unmapped or self.settings.unmapped_ids
        workers, dry_run = self.workers(parsed_args), parsed_args.dry_run
        with (
            self.reserved(path, id_maps, dry_run) as fd,
            progress_bar("shift") as progress,
        ):
            report = rootfs.shift(
                path,
                id_maps,
                fd=fd,
                unmapped=unmapped,
                workers=workers,
                dry_run=dry_run,
                progress=progress,
                strict=parsed_args.strict,
                recheck=parsed_args.recheck,
            )
        return _show(report)


class Unshift(_OnDisk):
    """Make the owners of a root filesystem guest IDs again.

    The tree remembers for which ID maps it was shifted. What an interrupted
    shift has changed is taken back. The tree has to be where
    only root can reach it: what its container has made set-user-ID is real
    root's then.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--dry-run``."""
        super().add_arguments(parser)
        _add_dry_run(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Unshift."""
        path, dry_run = parsed_args.path, parsed_args.dry_run
        workers = self.workers(parsed_args)
        with (
            self.reserved(path, None, dry_run) as fd,
            progress_bar("unshift") as progress,
        ):
            report = rootfs.unshift(
                path,
                fd=fd,
                workers=workers,
                dry_run=dry_run,
                progress=progress,
            )
        return _show(report)


class Verify(_OnDisk):
    """Look whether every owner is what the ID maps give; change nothing.

    Without ID maps on the command line those of the configuration count; if
    it has none, those that the tree was shifted for. Exit code 1 if any owner
    is wrong; the first hundred are listed on standard error.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the ID maps."""
        super().add_arguments(parser)
        add_map_arguments(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Verify."""
        path, workers = parsed_args.path, self.workers(parsed_args)
        id_maps = given_id_maps(parsed_args) or self.settings.id_maps
        with progress_bar("verify") as progress:
            report = rootfs.verify(
                path, id_maps, workers=workers, progress=progress
            )
        for finding in report.findings:
            self.app.stderr.write(f"{finding.path}: {finding.reason}\n")
        self.failed = not report.ok
        return (
            ("inodes", "wrong", "unmapped"),
            (report.inodes, report.wrong, report.unmapped),
        )


class Unpack(ConfiguredCommand, ShowOne):
    """Unpack a tar archive to a new root filesystem.

    Its owners become host IDs on the way, or stay as they are for a view.
    Whatever is in the archive, nothing outside of the directory changes, and
    the directory has its content only once all of it is there. Device nodes
    are left out, and counted as skipped; whiteouts of an image's layer are
    made like other files, and counted too.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what goes where."""
        parser.add_argument(
            "archive",
            metavar="ARCHIVE",
            help="Tar archive, plain or compressed by gzip, xz or zstd; with "
            "--oci a directory.",
        )
        parser.add_argument(
            "--oci",
            action="store_true",
            help="Unpack the image of an OCI image layout, a directory with "
            "index.json and blobs: its layers one over the other, without "
            "what their whiteouts hide.",
        )
        parser.add_argument(
            "path",
            metavar="PATH",
            help="Directory to make; if it is there already it has to be "
            "empty, and keeps its quota, flags, mode and ACLs.",
        )
        add_map_arguments(parser)
        parser.add_argument(
            "--unshifted",
            action="store_true",
            help="Keep the owners of the archive, for the strategies "
            "idmapped and overlay; ID maps are of no account then.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Unpack."""
        shifted = not parsed_args.unshifted
        id_maps = self.id_maps(parsed_args) if shifted else None
        limits = self.settings.unpack_limits
        with unpack_bar(parsed_args.archive) as progress:
            unpack = rootfs.unpack_oci if parsed_args.oci else rootfs.unpack
            report = unpack(
                parsed_args.archive,
                parsed_args.path,
                id_maps,
                shifted=shifted,
                limits=limits,
                progress=progress,
            )
        return (
            ("inodes", "skipped", "whiteouts", "whiteout_files"),
            (
                report.inodes,
                report.skipped,
                report.whiteouts,
                report.whiteout_files,
            ),
        )


class Mount(ConfiguredCommand):
    """Mount a view of a root filesystem, its owners shifted by the kernel.

    Nothing changes on disk. With --overlay the root filesystem is not even
    written to: what changes is kept in STATE_DIR, and many can share it.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add source, target, ID maps and the overlay's directory."""
        parser.add_argument(
            "source",
            metavar="SOURCE",
            help="Directory of the root filesystem, which only root can "
            "reach, or a raw disk image of one.",
        )
        parser.add_argument(
            "target", metavar="TARGET", help="Directory to mount it on."
        )
        add_map_arguments(parser)
        parser.add_argument(
            "--overlay",
            metavar="STATE_DIR",
            help="Keep what changes in this directory, of mode 0700 and made "
            "if missing, which is for one view alone.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Mount."""
        source, target = parsed_args.source, parsed_args.target
        id_maps = self.id_maps(parsed_args)
        if parsed_args.overlay is None:
            rootfs.mount_idmapped(source, target, id_maps)
        else:
            rootfs.mount_overlay(source, parsed_args.overlay, target, id_maps)


class Unmount(ConfiguredCommand):
    """Unmount a view; what it shows stays as it is."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the target."""
        parser.add_argument(
            "target", metavar="TARGET", help="Directory it is mounted on."
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Unmount."""
        rootfs.unmount(parsed_args.target)
