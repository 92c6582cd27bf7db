# SPDX-License-Identifier: Apache-2.0
"""The filesystems of one instance: made ready, mounted, and removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from lxc_userns.claims import Claim
from lxc_userns.instances import InstanceRecord
from lxc_userns.linux import syncing
from lxc_userns.rootfs import (
    backing,
    reach,
    strategies,
    unpacking,
    views,
    volumes,
)
from lxc_userns.rootfs.backing import Backing
from lxc_userns.rootfs.private import PrivateFiles
from lxc_userns.rootfs.strategies import Progress, ShiftOptions

_ROOT = "root"


class Filesystems:
    """The root filesystems and volumes of a host's instances.

    :param state_path: directory of root's for what instances own.
    :param run_path: directory for their views.
    """

    def __init__(self, state_path: str, run_path: str) -> None:
        self._private = PrivateFiles(state_path)
        self._views = views.Views(run_path)

    def view(self, instance: str) -> str:
        """Where the view of a root filesystem is, or would be."""
        return self._views.path(instance, _ROOT)

    def unpacked(self, instance: str) -> str:
        """Where an archive for an instance is unpacked, or would be."""
        return self._private.rootfs(instance)

    def is_mounted(self, instance: str) -> bool:
        """Whether an instance has any view mounted."""
        return self._views.is_mounted(instance)

    def unpack(
        self, record: InstanceRecord, progress: Progress | None
    ) -> InstanceRecord:
        """Unpack its archive, unless that is done.

        :returns: the record, with the strategy chosen for where it is.
        """
        if record.archive is None or os.path.isdir(record.rootfs):
            return record
        with self._private.opened(record.name) as parent:
            # The tree will be reached as its parent is, and no better.
            place = Backing(os.path.dirname(record.rootfs), parent)
            chosen = strategies.choose(record.strategy, place, record.id_maps)
            unpacking.unpack(
                record.archive,
                record.rootfs,
                record.id_maps,
                shifted=chosen.strategy == strategies.CHOWN,
                progress=progress,
            )
        return replace(record, strategy=chosen.strategy, reason=chosen.reason)

    @contextmanager
    def opened(self, record: InstanceRecord) -> Iterator[Backing]:
        """Open a root filesystem, and check what libvirt will mount on."""
        readonly = record.strategy == strategies.OVERLAY
        with backing.opened(record.rootfs, readonly=readonly) as tree:
            backing.check_layout(tree)
            yield tree

    def choose(self, record: InstanceRecord, tree: Backing) -> InstanceRecord:
        """The record, with the strategy that suits the root filesystem."""
        if record.reason:
            return record
        chosen = strategies.choose(record.strategy, tree, record.id_maps)
        return replace(record, strategy=chosen.strategy, reason=chosen.reason)

    def make_ready(
        self, record: InstanceRecord, tree: Backing, options: ShiftOptions
    ) -> None:
        """Do on disk what the strategy needs; cheap if it is done.

        Of an overlay, none of its views may be mounted with other ID maps.
        """
        strategy = strategies.STRATEGIES[record.strategy]
        strategy.make_ready(tree, record.id_maps, options)
        if record.strategy == strategies.OVERLAY and record.id_maps:
            shift = replace(options, unmapped="keep", recheck=False).shift
            self._private.reshift(record.name, record.id_maps, shift)

    def mount(
        self, record: InstanceRecord, tree: Backing, options: ShiftOptions
    ) -> None:
        """Mount all views of an instance.

        :param options: how to shift volumes that are to be.
        """
        strategy = strategies.STRATEGIES[record.strategy]
        name, id_maps = record.name, record.id_maps

        def mount_root(parent: int, point: str) -> None:
            state = self._private.overlay(name)
            place = strategies.Place(parent, point, state)
            strategy.mount(tree, id_maps, place)

        if record.strategy == strategies.OVERLAY:
            with self._private.opened(name):
                pass
        self._views.mount(name, _ROOT, id_maps, mount_root)
        if record.volumes:
            self._mount_volumes(record, options)

    def check_unreachable(self, record: InstanceRecord) -> None:
        """Check that no user of the host can reach what is idmapped.

        :raises ReachableError: if one can.
        """
        is_idmapped = record.strategy in (
            strategies.IDMAPPED,
            strategies.OVERLAY,
        )
        # An image is mounted nowhere else.
        if is_idmapped and os.path.isdir(record.rootfs):
            with backing.opened(record.rootfs) as tree:
                reach.check_unreachable(tree.fd, tree.path)
        for volume in record.volumes:
            with volumes.opened(volume) as source:
                source.check_harmless()

    def sync(self, instance: str) -> None:
        """Write to disk what the kernel has of its root filesystem."""
        if self.is_mounted(instance):
            with (
                self._views.opened(instance, _ROOT) as fd,
                backing.translated(self.view(instance)),
            ):
                syncing.sync_filesystem(fd)

    def unmount(self, instance: str) -> None:
        """Unmount all views of an instance; safe to repeat."""
        self._views.unmount(instance)

    def remove(self, instance: str) -> None:
        """Remove what only this instance has; safe to repeat."""
        self._private.remove(instance)

    def _mount_volumes(
        self, record: InstanceRecord, options: ShiftOptions
    ) -> None:
        with ExitStack() as stack:
            sources = [
                stack.enter_context(volumes.opened(volume))
                for volume in record.volumes
            ]
            # Of the view, for what an overlay has changed counts too.
            root = stack.enter_context(self._views.opened(record.name, _ROOT))
            volumes.check_targets(root, sources)
            for number, source in enumerate(sources):
                self._views.mount(
                    record.name,
                    volume_name(number),
                    record.id_maps,
                    partial(source.mount, record.id_maps, options=options),
                    is_directory=source.is_directory,
                )


def volume_name(number: int) -> str:
    """Name of the mount point of a volume.

    :param number: its place among the instance's volumes, from 0.
    """
    return f"volume{number}"


def claims(record: InstanceRecord) -> list[Claim]:
    """What an instance uses on disk."""
    return [
        Claim(
            record.rootfs,
            record.strategy,
            record.id_maps,
            is_image=os.path.isfile(record.rootfs),
        ),
        *(
            Claim(
                volume.source,
                volume.owners,
                record.id_maps,
                is_root=False,
                readonly=volume.readonly,
            )
            for volume in record.volumes
        ),
    ]


def shared_paths(record: InstanceRecord) -> list[str]:
    """What others could shift or use at the same time."""
    return [record.rootfs, *(each.source for each in record.volumes)]
