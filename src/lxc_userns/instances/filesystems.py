# SPDX-License-Identifier: Apache-2.0
"""The filesystems of one instance: made ready, mounted, and removed."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from lxc_userns.exceptions import (
    ConfigError,
    RootfsError,
    translated,
)
from lxc_userns.instances.given_files import GivenFiles
from lxc_userns.instances.record import InstanceRecord, volume_name
from lxc_userns.linux import directory
from lxc_userns.rootfs import exposure
from lxc_userns.rootfs.views import (
    idmapped,
    mountpoints,
    own_names,
    strategies,
    volumes,
)
from lxc_userns.rootfs.views.source import (
    RootfsSource,
    check_layout,
    check_program,
    open_source,
)
from lxc_userns.rootfs.views.state_dir import PrivateFiles
from lxc_userns.spec.strategy import Strategy

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.rootfs.archive.limits import UnpackLimits
    from lxc_userns.rootfs.views.strategies import Progress, ShiftOptions
    from lxc_userns.rootfs.views.volumes import Source

_LOG = logging.getLogger(__name__)
_ROOT = "root"


class Filesystems:
    """The root filesystems and volumes of a host's instances.

    :param state_path: directory of root's for what instances own.
    :param run_path: directory for their views.
    :param roots: as for :class:`safe_path.Trust`.
    :param views: makes the mount points below a run path; None: those of
        the kernel.
    :param by_name: how views of root filesystems are made; None: by the
        strategies of this package.
    :ivar given: opens what the host gives instances.
    """

    def __init__(
        self,
        state_path: str,
        run_path: str,
        roots: Collection[str] = (),
        *,
        views: Callable[[str], mountpoints.Views] | None = None,
        by_name: Mapping[str, strategies.ViewStrategy] | None = None,
    ) -> None:
        self._private = PrivateFiles(state_path)
        self._run_path = run_path
        self._find_views = views or mountpoints.Views
        self._views = self._find_views(run_path)
        self.given = GivenFiles(roots)
        self._by_name = by_name or strategies.STRATEGIES

    def view(self, instance: str) -> str:
        """Return where the view of a root filesystem is, or would be."""
        return self._views.path(instance, _ROOT)

    def check_view(
        self, record: InstanceRecord, *, is_kept: bool = False
    ) -> None:
        """Refuse an instance whose views are below another run path.

        Here they would not be seen, and its IDs be given to another instance
        while they are mounted there.

        :param is_kept: whether to refuse it also while they are unmounted:
            its domain has that place.
        :raises ConfigError: if it is refused.
        """
        view = self.view(record.name)
        if os.path.realpath(record.view) == os.path.realpath(view):
            return
        place = os.path.dirname(os.path.dirname(record.view))
        if is_kept or self._find_views(place).is_mounted(record.name):
            raise ConfigError(
                "[lxc_userns] run_path",
                self._run_path,
                f"views of {record.name} are below {place}; set it to that "
                "until the instance is released",
            )

    def unpacked(self, instance: str) -> str:
        """Return where an archive for an instance is unpacked, or would be."""
        return self._private.rootfs(instance)

    def is_mounted(self, instance: str) -> bool:
        """Return whether an instance has any view mounted."""
        return self._views.is_mounted(instance)

    def is_unpacked(self, record: InstanceRecord) -> bool:
        """Return whether the archive of an instance is unpacked."""
        return os.path.isdir(record.rootfs)

    def unpack(
        self,
        record: InstanceRecord,
        limits: UnpackLimits,
        progress: Progress | None,
    ) -> InstanceRecord:
        """Unpack its archive, unless that is done.

        :param limits: what that may take.
        :returns: the record, with the strategy chosen for where it is.
        """
        if record.archive is None:
            return record
        with self._private.opened(record.name) as parent:
            if self.is_unpacked(record):
                self._archives.staging.remove_left(
                    parent, os.path.basename(record.rootfs)
                )
                return record
            # The tree will be reached as its parent is, and no better.
            place = RootfsSource(os.path.dirname(record.rootfs), parent)
            chosen = strategies.choose(record.strategy, place, record.id_maps)
            self._archives.unpack(
                record.archive,
                record.rootfs,
                record.id_maps,
                shifted=chosen.strategy.traits.shifts_on_disk,
                limits=limits,
                progress=progress,
                trust=self.given.trust,
            )
        return replace(record, strategy=chosen.strategy, reason=chosen.reason)

    def is_archive(self, path: str) -> bool:
        """Return whether it is one; see :func:`unpack.is_archive`."""
        return bool(self._archives.is_archive(path, self.given.trust))

    def check_archive(self, path: str) -> None:
        """Check that it is one; see :func:`unpack.check_archive`."""
        self._archives.check_archive(path, self.given.trust)

    @property
    def _archives(self) -> ModuleType:
        # Most commands see none.
        from lxc_userns.rootfs.archive import unpack

        return unpack

    @contextmanager
    def opened(
        self,
        record: InstanceRecord,
        fd: int,
        empty: exposure.Empty,
        *,
        grow: bool = False,
    ) -> Iterator[RootfsSource]:
        """Open a root filesystem, and check what libvirt will mount on.

        Disk images that only this instance can have, those of its volumes
        among them, are unmounted before, so that it must not be running.

        :param fd: what :meth:`GivenFiles.opened_root` gave.
        :param empty: as for :func:`exposure.check_only_root_can_reach`.
        :param grow: as for :func:`open_source`.
        """
        readonly = record.strategy.traits.shares_source
        is_image = not stat.S_ISDIR(os.fstat(fd).st_mode)
        is_alone = is_image and not readonly
        is_alone |= any(each.image for each in record.volumes)
        if is_alone and self.is_mounted(record.name):
            # An image is for one alone, and that can be a view of ours.
            self.unmount(record.name)
        kind = record.rootfs_kind
        if record.archive is not None:
            kind = "directory"  # What was unpacked from it.
        with open_source(
            record.rootfs,
            readonly=readonly,
            fd=fd,
            empty=empty,
            kind=kind,
            grow=grow,
            id_maps=record.id_maps,
        ) as tree:
            check_layout(tree)
            yield tree

    def check_program(self, tree: RootfsSource, program: str) -> None:
        """Check that a tree has a program; see :func:`check_program`."""
        check_program(tree, program)

    @contextmanager
    def overlaid(
        self, record: InstanceRecord, tree: RootfsSource, id_maps: IdMaps
    ) -> Iterator[int]:
        """Mount what its overlay shows, once more and nowhere."""
        if not self.is_mounted(record.name):
            state = self._private.overlay(record.name)
            with strategies.overlaid(tree, id_maps, state) as view:
                yield view
            return
        with (
            self._views.opened(record.name, _ROOT) as fd,
            idmapped.cloned_mount(fd, self.view(record.name), 0) as view,
        ):
            yield view

    def choose(
        self,
        record: InstanceRecord,
        tree: RootfsSource,
        *,
        warns: bool = True,
    ) -> InstanceRecord:
        """Return the record, with the strategy that suits the root filesystem.

        :param warns: whether to warn of what that changes.
        """
        if record.reason:
            return record
        chosen = strategies.choose(record.strategy, tree, record.id_maps)
        reason = chosen.reason
        if record.strategy == Strategy.AUTO != chosen.strategy:
            reason += _way_back(record, chosen)
        if chosen.changes_owners and warns:
            _LOG.warning(
                "%s: strategy chown changes the owners of all files in %s on "
                "disk: %s",
                record.name,
                record.rootfs,
                reason,
            )
        return replace(record, strategy=chosen.strategy, reason=reason)

    def give_own_names(
        self, record: InstanceRecord, tree: RootfsSource
    ) -> None:
        """Give it a host name and a machine ID, if its files are its own."""
        shown, hostname = record.rootfs, record.hostname
        give = partial(own_names.give, shown=shown, hostname=hostname)
        if record.archive is not None:
            give(tree.fd)
        elif record.strategy.traits.private_upper and record.id_maps:
            with self._private.opened(record.name):
                pass
            with self.overlaid(record, tree, record.id_maps) as view:
                give(view)

    def prepare_tree(
        self, record: InstanceRecord, tree: RootfsSource, options: ShiftOptions
    ) -> None:
        """Do on disk what the strategy needs; cheap if it is done.

        Of an overlay, none of its views may be mounted with other ID maps.
        """
        strategy = self._by_name[record.strategy]
        strategy.prepare_tree(tree, record.id_maps, options)
        if record.strategy.traits.private_upper and record.id_maps:
            layer = replace(
                options, unmapped="keep", recheck=False, is_layer=True
            )
            self._private.reshift(record.name, record.id_maps, layer.shift)

    def mount(
        self,
        record: InstanceRecord,
        tree: RootfsSource,
        sources: Sequence[Source],
        options: ShiftOptions,
    ) -> None:
        """Mount all views of an instance.

        :param sources: its volumes, open.
        :param options: how to shift volumes that are to be.
        """
        strategy = self._by_name[record.strategy]
        name, id_maps = record.name, record.id_maps

        def mount_root(parent: int, point: str) -> None:
            state = self._private.overlay(name)
            place = strategies.MountTarget(parent, point, state)
            strategy.mount(tree, id_maps, place)

        if record.strategy.traits.private_upper:
            with self._private.opened(name):
                pass
        self._views.mount(name, _ROOT, id_maps, mount_root)
        if sources:
            self._mount_volumes(record, sources, options)

    def sync(self, instance: str) -> None:
        """Write to disk what the kernel has of its root filesystem."""
        if self.is_mounted(instance):
            with (
                self._views.opened(instance, _ROOT) as fd,
                translated(RootfsError, self.view(instance)),
            ):
                directory.sync_filesystem(fd)

    def follow_targets(self, record: InstanceRecord) -> dict[str, str]:
        """Return where its root filesystem leads its volumes, by target.

        :raises RootfsError: if a link leads one out of it.
        :raises OSError: if its views are not there.
        """
        name = record.name
        with ExitStack() as stack:
            root = stack.enter_context(self._views.opened_path(name, _ROOT))
            mounted = []
            for number, volume in enumerate(record.volumes):
                view = self._views.opened_path(name, volume_name(number))
                mounted.append((volume.target, stack.enter_context(view)))
            return volumes.follow_targets(root, mounted)

    def unmount(self, instance: str) -> None:
        """Unmount all views of an instance; safe to repeat."""
        self._views.unmount(instance)

    def remove(self, instance: str) -> None:
        """Remove what only this instance has; safe to repeat."""
        self._private.remove(instance)

    def _mount_volumes(
        self,
        record: InstanceRecord,
        sources: Sequence[Source],
        options: ShiftOptions,
    ) -> None:
        # Of the view, for what an overlay has changed counts too.
        with self._views.opened(record.name, _ROOT) as root:
            volumes.check_targets(root, sources)
        for number, source in enumerate(sources):
            self._views.mount(
                record.name,
                volume_name(number),
                record.id_maps,
                partial(source.mount, record.id_maps, options=options),
                is_directory=source.is_directory,
            )


def _way_back(record: InstanceRecord, chosen: strategies.Choice) -> str:
    """Return how a tree that ``auto`` has shifted becomes idmapped."""
    if not chosen.strategy.traits.shifts_on_disk:
        return ""
    see_to = "see to that, " if chosen.changes_owners else ""
    return (
        f"; for an idmapped mount {see_to}destroy the container and run "
        f"lxc-userns rootfs unshift {record.rootfs} before the next run"
    )
