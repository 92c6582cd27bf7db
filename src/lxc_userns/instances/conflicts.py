# SPDX-License-Identifier: Apache-2.0
"""Conflicts between instances over paths on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.spec.strategy import Strategy

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.spec.volume import Volume

#: Those that change owners on disk; so does a volume with owners "chown".
_SHIFTED = {each for each in Strategy if each.traits.shifts_on_disk}
_SHARED = {each for each in Strategy if each.traits.shares_source}


@dataclass(frozen=True, slots=True, kw_only=True)
class PathUse:
    """One use of a directory or image.

    :param path: absolute path without links.
    :param strategy: that of a root filesystem, or owners of a volume. ``auto``
        may become any of those that change the tree: looked at again then.
    :param id_maps: with which ID maps.
    :param is_root: whether it is a root filesystem, not a volume.
    :param is_image: whether it is a disk image, which no two may write to.
    :param readonly: whether a volume cannot be written to.
    """

    path: str
    strategy: str
    id_maps: IdMaps | None
    is_root: bool = True
    is_image: bool = False
    readonly: bool = False

    @property
    def is_below_overlay(self) -> bool:
        """Whether changes elsewhere depend on it, mounted or not."""
        return self.is_root and self.strategy in _SHARED

    @property
    def may_be_shifted(self) -> bool:
        """Whether its owners on disk are, or may become, host IDs."""
        return self.strategy in {*_SHIFTED, Strategy.AUTO}

    def conflicts_with(self, other: PathUse) -> bool:
        """Return whether the two would harm each other at the same time."""
        if not overlap(self.path, other.path):
            return False
        if _SHIFTED & {self.strategy, other.strategy}:
            return not self._is_same_use(other)
        if self.is_below_overlay or other.is_below_overlay:
            return self._writes() or other._writes()
        if self.is_root and other.is_root:
            return not self._is_same_use(other)
        return False

    def _is_same_use(self, other: PathUse) -> bool:
        chosen = {self.strategy, other.strategy} - {Strategy.AUTO}
        return (
            not (self.is_image or other.is_image)
            and len(chosen) <= 1
            and (self.path, self.id_maps) == (other.path, other.id_maps)
        )

    def _writes(self) -> bool:
        return not (self.readonly or self.is_below_overlay)


def find_conflicts(
    mine: list[PathUse], theirs: list[PathUse]
) -> Iterator[tuple[PathUse, PathUse]]:
    """Yield all pairs that do not go together."""
    for one in mine:
        for other in theirs:
            if one.conflicts_with(other):
                yield one, other


def overlap(one: str, other: str) -> bool:
    """Return whether two absolute paths are the same or nested."""
    paths = PurePath(one), PurePath(other)
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(
        paths[0]
    )


def path_uses(record: InstanceRecord | DamagedRecord) -> list[PathUse]:
    """Return the uses of paths by an instance, certain or possible."""
    if isinstance(record, DamagedRecord):
        return _remaining_uses(record)
    root = PathUse(
        path=record.rootfs,
        strategy=record.strategy,
        id_maps=record.id_maps,
        is_image=os.path.isfile(record.rootfs),
    )
    return [root, *_volume_uses(record.volumes, record.id_maps)]


def _volume_uses(
    volumes: Iterable[Volume], id_maps: IdMaps | None
) -> Iterator[PathUse]:
    for volume in volumes:
        yield PathUse(
            path=volume.source,
            strategy=volume.owners,
            id_maps=id_maps,
            is_root=False,
            readonly=volume.readonly,
        )


def _remaining_uses(record: DamagedRecord) -> list[PathUse]:
    """Return uses by a damaged record; the unknown counts as written to."""
    paths = [*record.sources]
    paths += (e.source for e in record.volumes if e.owners == "chown")
    found = [*_volume_uses(record.volumes, None)]
    if record.rootfs is not None:
        root = PathUse(
            path=record.rootfs, strategy=record.strategy, id_maps=None
        )
        if root.is_below_overlay:
            found.append(root)
        else:
            paths.append(record.rootfs)
    alone = (
        PathUse(path=e, strategy=Strategy.CHOWN, id_maps=None, is_image=True)
        for e in paths
    )
    return [*found, *alone]
