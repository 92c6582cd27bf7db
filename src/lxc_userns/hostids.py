# SPDX-License-Identifier: Apache-2.0
"""Who on this host holds which IDs already: users, groups, subordinates."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxc_userns import subid

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")


@dataclass(frozen=True, slots=True)
class HostIds:
    """The host IDs of one kind that somebody holds.

    :param kind: ``user`` or ``group``.
    :param names: the names behind single IDs.
    :param subordinates: the ranges of :manpage:`subuid(5)`.
    :param malformed: lines of that file which could not be read.
    """

    kind: str
    names: dict[int, str]
    subordinates: tuple[subid.SubordinateRange, ...]
    malformed: tuple[subid.MalformedLine, ...] = ()

    def holders(self, ids: range, owner: str = "") -> Iterator[str]:
        """Who holds any of these IDs.

        :param ids: host IDs.
        :param owner: the owner whose own subordinate ranges do not count.
        :returns: a phrase for each holder, as ``user alice (1000)``.
        """
        for number, name in sorted(self.names.items()):
            if number in ids:
                yield f"{self.kind} {name} ({number})"
        for held in self.subordinates:
            if held.owner != owner and (
                held.start < ids.stop and ids.start < held.ids.stop
            ):
                yield (
                    f"the subordinate {self.kind} IDs of {held.owner} "
                    f"({held.start}:{held.count})"
                )


def read_host_uids() -> HostIds:
    """Users (by NSS) and subordinate user IDs of this host."""
    names = {each.pw_uid: each.pw_name for each in pwd.getpwall()}
    return HostIds("user", names, *_read_subordinates(SUBUID))


def read_host_gids() -> HostIds:
    """Groups (by NSS) and subordinate group IDs of this host."""
    names = {each.gr_gid: each.gr_name for each in grp.getgrall()}
    return HostIds("group", names, *_read_subordinates(SUBGID))


def _read_subordinates(
    path: Path,
) -> tuple[
    tuple[subid.SubordinateRange, ...], tuple[subid.MalformedLine, ...]
]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return (), ()
    return subid.parse(text)
