# SPDX-License-Identifier: Apache-2.0
"""Reports on a tree that was shifted, or looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShiftReport:
    """Report on a shift or unshift, done or dry.

    :param inodes: inodes of the tree, hard links counted once.
    :param shifted: of these, the ones that changed.
    :param unmapped: of these, the ones with an owner, or an ID in an ACL or in
        file capabilities, that no entry covers. An owner that the policy
        ``nobody`` has changed counts once: shifted again, it is covered.
    :param uids: the first unmapped user IDs, ascending.
    :param gids: the first unmapped group IDs, ascending.
    :param devices: of the inodes, the device nodes, which are the host's.
    :param linked_outside: of the inodes, the ones with names (hard links)
        outside of the tree, which change there too.
    :param linked_paths: paths in the tree of some of these; none if the tree
        was not walked, as it was shifted already.
    :param split_links: names of files with several (hard links) that become
        files of their own, as the tree is on an overlay without an index.
    :param read_only: read-only btrfs subvolumes in which something would
        have to change; they are looked for before anything is changed, and
        refused then.
    :param read_only_paths: paths of some of these.
    """

    inodes: int
    shifted: int
    unmapped: int
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()
    devices: int = 0
    linked_outside: int = 0
    linked_paths: tuple[str, ...] = ()
    split_links: int = 0
    read_only: int = 0
    read_only_paths: tuple[str, ...] = ()

    @property
    def linked(self) -> str:
        """Return how many have names outside of the tree, in words."""
        number = self.linked_outside
        return (
            f"{number} {'file has' if number == 1 else 'files have'} other "
            "names (hard links) outside of the tree"
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One inode that is not as the maps say.

    :param path: its path.
    :param reason: what is wrong with it.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Comparison of a tree with the maps.

    :param inodes: inodes of the tree, hard links counted once.
    :param wrong: of these, the ones that a shift would change.
    :param unmapped: of these, the ones whose owner no entry covers.
    :param findings: the first that are wrong.
    """

    inodes: int
    wrong: int
    unmapped: int
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether a shift would change nothing."""
        return not (self.wrong or self.findings)
