# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns lease``: ranges of host IDs, and who has them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cliff.lister import Lister
from cliff.show import ShowOne

from lxc_userns.cli.base import ConfiguredCommand, require_root
from lxc_userns.exceptions import PrerequisiteError

if TYPE_CHECKING:
    from lxc_userns.leases import Lease
    from lxc_userns.leases.allocator import LeaseAllocator
    from lxc_userns.leases.host_pool import PoolUsage

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]

_LOG = logging.getLogger(__name__)


class _LeaseCommand(ConfiguredCommand):
    @property
    def allocator(self) -> LeaseAllocator:
        """The lease allocator of this host.

        :raises PrerequisiteError: if this is not root.
        """
        require_root()
        return self.services.allocator


class _OnInstance(_LeaseCommand):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the instance."""
        parser.add_argument(
            "instance",
            metavar="INSTANCE",
            help="Name of the instance, or its UUID.",
        )


class Acquire(_OnInstance, ShowOne):
    """Lease a range of its own to an instance, or show the one it has.

    A container that is run under this name gets it. It is kept until it is
    released, or until "gc" finds that libvirt does not know the name.
    The UUID of an instance that is known means the same as its name.
    """

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Acquire it."""
        from lxc_userns.leases import by_hand

        for name in ("subid_owner", "range_size"):
            getattr(self.settings, name)
        lease = by_hand.acquire(self.allocator, parsed_args.instance)
        return (
            ("instance", "uid_start", "gid_start", "count"),
            (lease.instance, lease.uid_start, lease.gid_start, lease.count),
        )


class Release(_OnInstance):
    """Take the lease of an instance back; safe to repeat.

    Refused while anything runs with its IDs, and for a container, which has
    its lease until it is destroyed.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Release it."""
        from lxc_userns.leases import by_hand

        by_hand.release(self.allocator, parsed_args.instance)


class List(_LeaseCommand, Lister):
    """List the leases; below a table, how many more there can be."""

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        """List them."""
        allocator = self.allocator
        with allocator.leases.read() as leases:
            held = leases.all()
        room = self.room = _find_room(allocator)
        columns = (
            "instance", "uid_start", "gid_start", "count", "state",
            "acquired", "uuid",
        )  # fmt: skip
        rows = [
            (
                lease.instance,
                lease.uid_start,
                lease.gid_start,
                lease.count,
                _state(lease, room),
                _show_time(lease.acquired),
                lease.uuid,
            )
            for lease in held
        ]
        self.held = len(held)
        return columns, rows

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
    ) -> int:
        """Print them, and a summary where no one is to parse it."""
        code = super().produce_output(parsed_args, column_names, data)
        if parsed_args.formatter == "table":
            for line in _summary(self.held, self.room):
                self.app.stdout.write(f"{line}\n")
        return int(code)


def _find_room(allocator: LeaseAllocator) -> PoolUsage | None:
    """Return how much is left, None if there is no pool to be seen."""
    if not allocator.pool.owner:
        return None
    try:
        return allocator.pool.usage()
    except PrerequisiteError as err:
        _LOG.warning("%s", err)
        return None


def _state(lease: Lease, room: PoolUsage | None) -> str:
    states = ["held"]
    if room is not None and not room.pools.contains(lease):
        states.append("outside the pool")
    if lease.unknown_since is not None:
        states.append(
            f"unknown to libvirt since {_show_time(lease.unknown_since)}"
        )
    return ", ".join(states)


def _show_time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError):  # Of a clock that was far off.
        return f"{seconds} seconds of Unix time"


def _summary(held: int, room: PoolUsage | None) -> list[str]:
    if room is None:
        return [f"{held} held"]
    lines = [
        f"{held} held, {room.free} free: leases of {room.size} IDs from the "
        f"pool of {room.pools.owner}"
    ]
    for _, pool in room.pools:
        if pool.holders:
            held_by = pool.describe_holders()
            lines.append(f"not leased, {pool.kind} IDs held by: {held_by}")
    lines += dict.fromkeys(
        f"not leased again while shifted for {tree.ids.start}: {tree.path}"
        for tree in room.waiting
        if tree.kind == "uid"
    )
    return lines
