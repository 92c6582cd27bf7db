# SPDX-License-Identifier: Apache-2.0
"""Trees, images and instances that somebody packs by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from lxc_userns.exceptions import InstanceError, RootfsError, translated
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.conflicts import overlap, path_uses
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.record import InstanceRecord, check_name
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.archive import pack as packing
from lxc_userns.rootfs.archive.pack import PackReport
from lxc_userns.rootfs.views import source as sources
from lxc_userns.services import Services
from lxc_userns.spec.strategy import Strategy

_LIVE = "stop it first, or pack it as it runs (--live)"


@dataclass(frozen=True, slots=True)
class PackOptions:
    """Options of packing.

    :param id_maps: as for :func:`lxc_userns.rootfs.pack`, and
    :param live: the same, and
    :param progress: the same.
    """

    id_maps: IdMaps | None = None
    live: bool = False
    progress: Callable[[int], None] | None = None


def pack(
    services: Services, what: str, archive: str, options: PackOptions
) -> PackReport:
    """Pack an instance, or else a directory or disk image.

    :param what: a path; or the name of an instance, if no file here has it.
    :raises InstanceError: if an instance is running, and not to be packed
        live, or cannot be.
    :raises RootfsError: as :func:`lxc_userns.rootfs.pack`, and if a running
        instance uses the tree that is not to be packed live.
    """
    record = _find_instance(services, what)
    if record is None:
        return _pack_tree(services, what, archive, options)
    with ExitStack() as stack:
        if not options.live:
            stack.enter_context(services.store.lock(record.name))
            # It may have changed until then.
            record = services.store.load(record.name) or record
        if _is_running(services, record.name, record.uuid):
            _check_live(record, options)
        return _pack_instance(services, record, archive, options)


def _find_instance(services: Services, what: str) -> InstanceRecord | None:
    """Return the instance of a name, None if it is a path."""
    try:
        check_name(what)
    except InstanceError:
        return None
    record = services.store.load(what)
    if record is not None and os.path.lexists(what):
        raise RootfsError(
            what,
            f"is a file here, and an instance; give ./{what} for the file, or "
            "call this in another directory",
        )
    return record


def _check_live(record: InstanceRecord, options: PackOptions) -> None:
    """Refuse a running instance that is not to be, or cannot be, packed."""
    if not options.live:
        raise InstanceError(record.name, f"is running; {_LIVE}")
    is_directory = os.path.isdir(record.rootfs)
    if record.strategy == Strategy.OVERLAY or not is_directory:
        what = "a disk image" if not is_directory else "an overlay"
        raise InstanceError(
            record.name,
            f"is running on {what}, which cannot be packed as it runs; stop "
            "it first",
        )


def _pack_instance(
    services: Services,
    record: InstanceRecord,
    archive: str,
    options: PackOptions,
) -> PackReport:
    if options.id_maps is not None:
        raise InstanceError(
            record.name,
            f"has its ID maps; give {record.rootfs} to pack it by others",
        )
    with (
        services.files.given.opened_root(record) as root,
        sources.open_source(root.path, readonly=True, fd=root.fd) as tree,
    ):
        if record.strategy == Strategy.OVERLAY and record.id_maps is not None:
            refusals.check_usable(tree.fd, tree.path)
            with services.files.overlaid(record, tree, record.id_maps) as view:
                return packing.pack_view(
                    services.files.view(record.name),
                    view,
                    archive,
                    record.id_maps,
                    progress=options.progress,
                )
        return packing.pack_source(
            tree, archive, live=options.live, progress=options.progress
        )


def _pack_tree(
    services: Services, path: str, archive: str, options: PackOptions
) -> PackReport:
    rootfs = services.paths.resolve(path)
    with (
        services.paths.opened(rootfs) as fd,
        translated(RootfsError, path),
        ExitStack() as stack,
    ):
        if not options.live:
            stack.enter_context(services.store.lock_trees([fd]))
            _check_no_user(services, rootfs)
        tree = sources.open_source(rootfs, readonly=True, fd=fd)
        return packing.pack_source(
            stack.enter_context(tree),
            archive,
            options.id_maps,
            live=options.live,
            progress=options.progress,
        )


def _check_no_user(services: Services, rootfs: str) -> None:
    """Refuse a tree in which a running instance can write."""
    for record in services.store.load_all():
        uses = (
            use
            for use in path_uses(record)
            if not (use.is_below_overlay or use.readonly)
            and overlap(use.path, rootfs)
        )
        uuid = None if isinstance(record, DamagedRecord) else record.uuid
        if any(uses) and _is_running(services, record.name, uuid):
            raise RootfsError(
                rootfs,
                f"is in use by the running instance {record.name}; {_LIVE}",
            )


def _is_running(services: Services, name: str, uuid: str | None) -> bool:
    return services.instances.running.find(name, uuid) is not None
