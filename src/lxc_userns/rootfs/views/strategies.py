# SPDX-License-Identifier: Apache-2.0
"""Strategies: how the files of an image come to belong to mapped IDs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lxc_userns.exceptions import (
    ExposedTreeError,
    NotIdmappableError,
    RootfsError,
    UnmappedIdsError,
    translated,
)
from lxc_userns.linux import directory, mount_api
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.shifting import shift
from lxc_userns.rootfs.shifting.goals import Goal
from lxc_userns.rootfs.views import overlay
from lxc_userns.rootfs.views.source import (
    RootfsSource,
    add_oldroot,
    check_layout,
)
from lxc_userns.spec.strategy import Strategy

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.rootfs.shifting.report import ShiftReport

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ShiftOptions:
    """Options of a shift on disk; see :func:`rootfs.shift`."""

    unmapped: str = "keep"
    recheck: bool = False
    workers: int | None = None
    progress: Progress | None = None
    is_layer: bool = False

    def shift(
        self,
        path: str,
        fd: int,
        id_maps: IdMaps,
        *,
        dry_run: bool = False,
        is_hidden: bool = False,
    ) -> ShiftReport:
        """Shift a tree like this.

        :param path: the tree as the caller knows it.
        :param fd: descriptor of its root directory.
        """
        goal = Goal(
            id_maps,
            "keep" if dry_run else self.unmapped,
            recheck=self.recheck,
            is_hidden=is_hidden,
        )
        return shift.reach(
            path,
            goal,
            self.workers,
            dry_run,
            self.progress,
            fd=fd,
            is_layer=self.is_layer,
        )


@dataclass(frozen=True, slots=True)
class MountTarget:
    """Mount point of a view that is to be.

    :param parent: descriptor of the directory that holds the mount point.
    :param name: name of the mount point, a directory.
    :param state: directory of the instance for what it changes, an absolute
        path; made by the strategy that needs it.
    """

    parent: int
    name: str
    state: str


class ViewStrategy(Protocol):
    """Strategy that makes files of a root filesystem the mapped IDs'.

    ID maps are None for a container in the host's user namespace.
    """

    def prepare_tree(
        self, tree: RootfsSource, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Do on disk what has to be done once; cheap if it is done."""

    def mount(
        self, tree: RootfsSource, id_maps: IdMaps | None, place: MountTarget
    ) -> None:
        """Mount the view of a tree; ``nodev``."""


class Bind:
    """The tree as it is, for a container without ID maps."""

    def prepare_tree(
        self, tree: RootfsSource, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Refuse a tree that is shifted: its root would be nobody's."""
        if _is_shifted(tree):
            raise RootfsError(
                tree.path,
                "is shifted, and a container in the host's user namespace "
                "cannot have it; unshift it first",
            )
        # Where the host is a container itself, all of it may be a view.
        if os.fstat(tree.fd).st_uid != 0:
            refusals.check_usable(tree.fd, tree.path)
        add_oldroot(tree, (0, 0))

    def mount(
        self, tree: RootfsSource, id_maps: IdMaps | None, place: MountTarget
    ) -> None:
        """Bind it."""
        tree.bind(place.parent, place.name)


class Chown(Bind):
    """Owners shifted on disk; works on every Unix filesystem."""

    def prepare_tree(
        self, tree: RootfsSource, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Shift it."""
        maps = _needed(id_maps)
        # Of an image, nothing else shows what is mounted.
        is_hidden = tree.image is not None
        options.shift(tree.path, tree.fd, maps, is_hidden=is_hidden)
        add_oldroot(tree, maps.root)


class Idmapped:
    """Owners shifted by the kernel, as it shows them."""

    def prepare_tree(
        self, tree: RootfsSource, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Refuse a tree that is shifted: it would be shifted twice."""
        _check_guest_owned(tree, _needed(id_maps), options)
        add_oldroot(tree, (0, 0))

    def mount(
        self, tree: RootfsSource, id_maps: IdMaps | None, place: MountTarget
    ) -> None:
        """Mount it idmapped."""
        with tree.idmapped(_needed(id_maps)) as view:
            _attach(view, place)


class Overlay:
    """Overlay on an idmapped mount; changes go to a private layer."""

    def prepare_tree(
        self, tree: RootfsSource, id_maps: IdMaps | None, options: ShiftOptions
    ) -> None:
        """Refuse a tree that is shifted: it would be shifted twice."""
        _check_guest_owned(tree, _needed(id_maps), options)

    def mount(
        self, tree: RootfsSource, id_maps: IdMaps | None, place: MountTarget
    ) -> None:
        """Mount an overlay on it."""
        with (
            overlaid(tree, _needed(id_maps), place.state) as view,
            directory.opened_in(view, ".") as root,
        ):
            # What the container has changed counts as much as the image.
            check_layout(RootfsSource(tree.path, root))
            _attach(view, place)


@contextmanager
def overlaid(tree: RootfsSource, id_maps: IdMaps, state: str) -> Iterator[int]:
    """Make an overlay on a tree, mounted nowhere yet.

    :param state: directory of the instance for what it changes, an absolute
        path; made if missing.
    :returns: descriptor of the view; it is gone afterwards unless attached.
    """
    with (
        translated(RootfsError, state),
        directory.open_private(state, 0o700) as fd,
        tree.idmapped(id_maps) as lower,
        overlay.overlay_mount(lower, tree.path, fd, id_maps) as view,
    ):
        yield view


#: Strategies by name.
STRATEGIES: Mapping[str, ViewStrategy] = {
    Strategy.IDMAPPED: Idmapped(),
    Strategy.OVERLAY: Overlay(),
    Strategy.CHOWN: Chown(),
    Strategy.BIND: Bind(),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The strategy for a root filesystem.

    :param strategy: one of :data:`STRATEGIES`.
    :param reason: why that one.
    :param changes_owners: whether ``auto`` has come to change owners on disk.
    """

    strategy: Strategy
    reason: str
    changes_owners: bool = False


def choose(
    strategy: Strategy, tree: RootfsSource, id_maps: IdMaps | None
) -> Choice:
    """Choose a strategy by trying it on the root filesystem itself.

    ``auto`` is ``idmapped`` where the kernel and the filesystem can and no
    user of the host can reach the tree, else ``chown``. It is never
    ``overlay``, which is for images that are to be shared.

    :param strategy: what was asked for.
    """
    if id_maps is None:
        return Choice(Strategy.BIND, "it is in the host's user namespace")
    if strategy != Strategy.AUTO:
        return Choice(strategy, "it was asked for")
    is_shifted = _is_shifted(tree)
    try:
        with tree.idmapped(id_maps):
            if not is_shifted:
                return Choice(
                    Strategy.IDMAPPED, "an idmapped mount of it can be made"
                )
            why = "its files are shifted on disk already"
    except (NotIdmappableError, ExposedTreeError) as err:
        why = err.reason
    return Choice(Strategy.CHOWN, why, changes_owners=not is_shifted)


def would_walk(
    strategy: Strategy,
    tree: RootfsSource,
    id_maps: IdMaps | None,
    options: ShiftOptions,
) -> bool:
    """Return whether preparing a tree would look at all of its files."""
    if id_maps is None:
        return False
    if not strategy.traits.shifts_on_disk:
        return options.unmapped == "error" and options.recheck
    return options.recheck or not shift.is_done(
        tree.fd, tree.path, id_maps, options.unmapped
    )


def _check_guest_owned(
    tree: RootfsSource, id_maps: IdMaps, options: ShiftOptions
) -> None:
    refusals.check_usable(tree.fd, tree.path)
    if _is_shifted(tree):
        raise RootfsError(
            tree.path,
            "is shifted on disk, and would be shifted twice; unshift it "
            "first, or take the strategy chown",
        )
    refusals.check_guest_root(tree.fd, tree.path, id_maps)
    if options.unmapped == "error" and options.recheck:
        report = options.shift(tree.path, tree.fd, id_maps, dry_run=True)
        if report.unmapped:
            raise UnmappedIdsError(tree.path, report.uids, report.gids)


def _is_shifted(tree: RootfsSource) -> bool:
    return shift.read_state(tree.path, fd=tree.fd) is not None


def _needed(id_maps: IdMaps | None) -> IdMaps:
    if id_maps is None:
        raise ValueError("this strategy needs ID maps")
    return id_maps


def _attach(view: int, place: MountTarget) -> None:
    with (
        translated(RootfsError, f"/proc/self/fd/{place.parent}/{place.name}"),
        directory.opened_in(place.parent, place.name) as target,
    ):
        mount_api.attach(view, target)
