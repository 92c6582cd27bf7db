# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns gc``: instances that libvirt does not know any more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, ClassVar

from cliff.lister import Lister

from lxc_userns.cli.base import ConfiguredCommand, require_root
from lxc_userns.exceptions import ConfigError

if TYPE_CHECKING:
    from lxc_userns.leases.gc import Orphan

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


class _Collect(ConfiguredCommand, Lister):
    columns: ClassVar[tuple[str, ...]] = ()
    #: Whether instances without a lease count.
    records = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the grace period."""
        parser.add_argument(
            "--grace-period",
            type=float,
            metavar="SECONDS",
            help="How long libvirt has not to know an instance; 0 releases "
            "it at once (default: an hour).",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        """Collect them."""
        from lxc_userns.leases import gc

        require_root()
        grace_period = parsed_args.grace_period
        if grace_period is None:
            grace_period = gc.GRACE_PERIOD
        if not grace_period >= 0:
            raise ConfigError(
                "--grace-period", str(grace_period), "expected 0 or more"
            )
        found = gc.collect_garbage(
            self.services,
            grace_period,
            only=getattr(parsed_args, "instances", ()),
            records=self.records,
        )
        rows = map(_values, found)
        return self.columns, [
            tuple(row[column] for column in self.columns) for row in rows
        ]


class Gc(_Collect):
    """Release instances that are gone from libvirt: leases and records.

    One that libvirt does not know is noted first, and released by a call that
    finds it still unknown after the grace period: its views are unmounted, its
    record is removed, its lease returned. A tree that is shifted on disk stays
    so. What runs is kept, and what has files of its own: no files are removed.
    What was kept of a domain that was converted, and is gone, goes too.
    """

    columns = (
        "instance", "uuid", "uid_start", "gid_start", "count", "outcome",
        "reason",
    )  # fmt: skip
    records = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the instances."""
        super().add_arguments(parser)
        parser.add_argument(
            "instances",
            metavar="INSTANCE",
            nargs="*",
            help="Names of the instances that are looked at (default: all).",
        )


class LeaseGc(_Collect):
    """Return the leases of instances that are gone from libvirt.

    The same as "gc", for instances with a lease alone. Nothing is returned
    while anything runs with its IDs, and no files are removed.
    """

    columns = (
        "instance", "uid_start", "gid_start", "count", "outcome", "reason"
    )  # fmt: skip


def _values(orphan: Orphan) -> dict[str, object]:
    lease = orphan.lease
    return {
        "instance": orphan.instance,
        "uuid": orphan.uuid,
        "uid_start": None if lease is None else lease.uid_start,
        "gid_start": None if lease is None else lease.gid_start,
        "count": None if lease is None else lease.count,
        "outcome": orphan.outcome,
        "reason": orphan.reason,
    }
