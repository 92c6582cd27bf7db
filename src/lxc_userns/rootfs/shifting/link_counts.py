# SPDX-License-Identifier: Apache-2.0
"""Counts of the names (hard links) that one worker has met of an inode.

An inode counts once, when its last name is met. One with names that another
worker has met, or that are outside of the tree, is left for the pool.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import TypeAlias

    #: Names met and names there are; what it is; a path of it.
    PlainLink: TypeAlias = tuple[int, int, bool, bool, bool, bool, bytes]


class Link:
    """An inode of which not every name was met.

    :param relpath: path below the root of the directory of the first name that
        was met; None if that is too long.
    :param name: that name.
    """

    __slots__ = (
        "is_device",
        "met",
        "name",
        "names",
        "relpath",
        "shifted",
        "unmapped",
        "unmapped_names",
    )

    def __init__(self, relpath: bytes | None, name: bytes) -> None:
        self.relpath = relpath
        self.name = name
        self.met = self.names = 0
        self.shifted = self.is_device = False
        self.unmapped = self.unmapped_names = False

    def plain(self) -> PlainLink:
        """Return it as the pool takes it."""
        relpath = b"..." if self.relpath is None else self.relpath
        path = b"%b/%b" % (relpath, self.name) if relpath else self.name
        return (
            self.met,
            self.names,
            self.shifted,
            self.unmapped,
            self.unmapped_names,
            self.is_device,
            path,
        )


class LinkCounts:
    """Inodes of which not every name was met."""

    def __init__(self) -> None:
        # By device and number.
        self._links: dict[tuple[int, int], Link] = {}

    def meet(
        self, st: os.stat_result, relpath: bytes | None, name: bytes
    ) -> Link:
        """Count a name of an inode.

        :param relpath: as for :class:`Link`.
        """
        key = st.st_dev, st.st_ino
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(relpath, name)
        link.met += 1
        link.names = st.st_nlink
        return link

    def drop_if_complete(self, st: os.stat_result) -> bool:
        """Return whether all names were met; there is no more to count."""
        key = st.st_dev, st.st_ino
        if self._links[key].met < st.st_nlink:
            return False
        del self._links[key]
        return True

    def plain(self) -> list[tuple[tuple[int, int], PlainLink]]:
        """Return those that are left, for the pool."""
        return [(key, link.plain()) for key, link in self._links.items()]
