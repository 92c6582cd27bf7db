# SPDX-License-Identifier: Apache-2.0
"""Tar archives of root filesystems, with guest IDs whatever is on disk.

GNU tar makes them in a user namespace, in which it sees nothing but the tree.
Of a shifted tree that namespace has the ID maps, and the kernel shows owners,
ACLs and file capabilities as the container sees them. One that is not shifted
is seen through an idmapped mount that takes its owners to IDs of no user of
the host, and through the namespace back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from lxc_userns.arguments import checked
from lxc_userns.exceptions import (
    NotIdmappableError,
    RootfsError,
    translated,
)
from lxc_userns.idmap import CONTAINER_IDS, IdMaps
from lxc_userns.linux import directory, mount_api, safe_path, user_namespaces
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.archive import creation, new_file, tar_ids
from lxc_userns.rootfs.archive.creation import Creation, TreeView
from lxc_userns.rootfs.archive.new_file import NewFile
from lxc_userns.rootfs.archive.supervisor import Progress
from lxc_userns.rootfs.shifting import ipc
from lxc_userns.rootfs.shifting.translation import BLOCK, Translation
from lxc_userns.rootfs.shifting.tree import Tree, open_tree
from lxc_userns.rootfs.shifting.tree_walks import TreeWalks
from lxc_userns.rootfs.shifting.worker_pool import WalkResult
from lxc_userns.rootfs.views import idmapped
from lxc_userns.rootfs.views import source as sources
from lxc_userns.rootfs.views.source import RootfsSource

Path = str | os.PathLike[str]

_LOG = logging.getLogger(__name__)
_ATTRIBUTES = (
    mount_api.MOUNT_ATTR_RDONLY
    | mount_api.MOUNT_ATTR_NOSUID
    | mount_api.MOUNT_ATTR_NODEV
    | mount_api.MOUNT_ATTR_NOEXEC
)


@dataclass(frozen=True, slots=True)
class PackReport:
    """Report on a tree that was packed.

    :param inodes: inodes in the archive, hard links counted once, of FIFOs
        and whiteouts too, though these are in it as files of their own.
    :param skipped: device nodes, which were left out as :func:`unpack` leaves
        them out, each name of one counted.
    :param sockets: sockets, which were left out: without the process that
        listens they are nothing.
    :param changed: files that changed while they were read, or went away; 0
        unless the tree was live. Of one that changed, what is in the archive
        may be partly as it was and partly as it became.
    """

    inodes: int
    skipped: int
    sockets: int
    changed: int = 0


@checked(
    path=(str, os.PathLike),
    archive=(str, os.PathLike),
    id_maps=(IdMaps, type(None)),
    live=bool,
    progress=(Callable, type(None)),
)
def pack(
    path: Path,
    archive: Path,
    id_maps: IdMaps | None = None,
    *,
    live: bool = False,
    progress: Progress | None = None,
) -> PackReport:
    """Pack a root filesystem to a new tar archive, with guest IDs.

    The tree stays as it is, its access times too. ``unpack`` makes the same
    tree of it for whatever ID maps: content, owners, modes, times of change,
    hard links, holes, symbolic links, FIFOs, ACLs, file capabilities and
    ``user.*`` attributes. Not in it are device nodes, sockets, inode flags,
    other extended attributes, that FIFOs or whiteouts are hard links of each
    other, and what is mounted in the tree.

    Whether a container uses the tree is the caller's to know.

    :param path: a directory, or a raw disk image with one filesystem, which
        only root can replace. An image is mounted read-only meanwhile.
    :param archive: a file that is not there yet. The end of its name says
        how it is compressed: ``.tar``, ``.tar.gz``, ``.tar.xz``,
        ``.tar.zst``, or ``.tgz``, ``.txz``, ``.tzst``. No one but root can
        read it, and it has its name only once all of it is on the disk.
    :param id_maps: what the tree is shifted for if it does not say so itself,
        because its attribute was lost; None if it does, or is not shifted.
    :param live: whether files may change meanwhile: each is as it was at some
        moment, and not two of them at the same. If not, a change is an error.
    :param progress: called with the bytes of the archive written so far, some
        ten times a second.
    :raises PrerequisiteError: if tar or what compresses is missing.
    :raises RootfsError: if owners of a shifted tree are no host IDs; if a
        path has more than 4093 bytes, which tar could not unpack; if files
        change; if the archive is there, or anything else is in the way.
        Nothing is left of the archive then.
    """
    name = os.fspath(path)
    with translated(RootfsError, name):
        os.stat(name)  # To abspath(), "" is the working directory.
        found = safe_path.resolve(os.path.abspath(name))
    with sources.open_source(found, readonly=True) as source:
        return pack_source(
            source, archive, id_maps, live=live, progress=progress
        )


def pack_source(
    source: RootfsSource,
    archive: Path,
    id_maps: IdMaps | None = None,
    *,
    live: bool = False,
    progress: Progress | None = None,
) -> PackReport:
    """Pack a root filesystem that is open; see :func:`pack`."""
    with (
        new_file.created(archive) as target,
        open_tree(source.path, shared=True, fd=source.fd) as tree,
    ):
        refusals.check_usable(source.fd, source.path)
        maps = _find_maps(tree, id_maps)
        walked = _look(tree, maps)
        if maps is not None and walked.shifted:
            raise _found_guest_ids(tree, maps, walked)
        with _mounted(source) as mount:
            rows = (
                _unshifted_rows(source, mount, walked)
                if maps is None
                else tar_ids.shifted_rows(maps)
            )
            write = partial(_write, target, tree.path, mount, rows)
            return write(walked, live, progress)


def pack_view(
    path: str,
    mount: int,
    archive: Path,
    id_maps: IdMaps,
    *,
    progress: Progress | None = None,
) -> PackReport:
    """Pack what a view of host IDs shows.

    :param path: what it shows, for messages.
    :param mount: descriptor of a mount of it that hangs nowhere, and is not
        idmapped itself; read-only from now on.
    :param id_maps: its ID maps.
    :raises RootfsError: as :func:`pack`, and for owners that the maps do not
        cover: a view does not tell them.
    """
    with (
        new_file.created(archive) as target,
        directory.opened_in(mount, ".") as fd,
        open_tree(path, shared=True, fd=fd) as tree,
    ):
        mount_api.set_attributes(mount, _ATTRIBUTES)
        walked = _look(tree, id_maps)
        if walked.shifted or walked.unmapped:
            raise RootfsError(
                path,
                f"{walked.shifted + walked.unmapped} inodes have owners, or "
                f"IDs in ACLs, that its ID maps {id_maps} do not cover, and "
                "its overlay does not tell which; chown them",
            )
        rows = tar_ids.shifted_rows(id_maps)
        return _write(target, path, mount, rows, walked, False, progress)


def _write(
    target: NewFile,
    path: str,
    mount: int,
    rows: tar_ids.Rows,
    walked: WalkResult,
    live: bool,
    progress: Progress | None,
) -> PackReport:
    with user_namespaces.create(*rows) as namespace:
        view = TreeView(path, mount, namespace)
        made = creation.create(view, target, live=live, progress=progress)
    _warn(path, made)
    left_out = made.nodes + made.sockets
    return PackReport(
        max(walked.inodes - left_out, 0),
        made.devices,
        made.sockets,
        made.changed,
    )


def _find_maps(tree: Tree, id_maps: IdMaps | None) -> IdMaps | None:
    """Return what a tree is shifted for, None if it is not."""
    state = tree.read_state()
    if state is None:
        _check_owner(tree, id_maps)
        return id_maps
    if state.work is not None:
        raise RootfsError(
            tree.path,
            "a shift of it was interrupted; run it again, or rootfs unshift",
        )
    if id_maps not in (None, state.maps):
        raise RootfsError(
            tree.path,
            f"is shifted for {state.maps}, as it says itself, and not for "
            f"{id_maps}; give no ID maps",
        )
    return state.maps


def _check_owner(tree: Tree, id_maps: IdMaps | None) -> None:
    """Refuse a tree that does not say what it is shifted for, if it is.

    A shift refuses a root directory that the ID maps do not cover.

    :param id_maps: what it is shifted for, None if it is not.
    """
    status = os.fstat(tree.fd)
    uid, gid = status.st_uid, status.st_gid
    if id_maps is None and max(uid, gid) >= CONTAINER_IDS:
        raise RootfsError(
            tree.path,
            f"belongs to {uid}:{gid}, which is no guest ID, and the mark that "
            "says what it is shifted for is lost; give its ID maps (--uid-map "
            f"0:{uid}:COUNT --gid-map 0:{gid}:COUNT), or chown it",
        )
    if id_maps is not None and None in (
        id_maps.unshift_uid(uid),
        id_maps.unshift_gid(gid),
    ):
        raise RootfsError(
            tree.path,
            f"belongs to {uid}:{gid}, which is no host ID of {id_maps}, and "
            "has no mark that says what it is shifted for; give the ID maps "
            "that it is shifted for, or none if it is not",
        )


def _look(tree: Tree, maps: IdMaps | None) -> WalkResult:
    workers = min(len(os.sched_getaffinity(0)), ipc.MOST_WORKERS)
    walks = TreeWalks(tree, workers, None)
    return walks.look(Translation(maps, maps).direct())


def _found_guest_ids(
    tree: Tree, maps: IdMaps, walked: WalkResult
) -> RootfsError:
    """Refuse owners in a shifted tree that are not shifted.

    Those that the maps do not know at all were kept by the shift, and are in
    the archive as they are on disk.
    """
    paths = [tree.show(path) for path, _ in walked.findings[:3]]
    return RootfsError(
        tree.path,
        f"{walked.shifted} inodes have guest IDs, and the tree is shifted "
        f"for {maps}, so that they cannot be told from others: "
        f"{', '.join(paths)}; run rootfs shift --recheck with these maps",
    )


@contextmanager
def _mounted(source: RootfsSource) -> Iterator[int]:
    """Mount the tree a second time, nowhere, without what is mounted in it."""
    if source.image is None:
        with idmapped.cloned_mount(
            source.fd, source.path, _ATTRIBUTES
        ) as mount:
            yield mount
        return
    with owned(source.image.mount()) as mount:
        mount_api.set_attributes(mount, _ATTRIBUTES)
        yield mount


def _unshifted_rows(
    source: RootfsSource, mount: int, walked: WalkResult
) -> tar_ids.Rows:
    """Give a mount of what is not shifted the IDs of no user, if it can be.

    :returns: the ID maps of the user namespace that sees its own IDs.
    """
    highest = max(walked.blocks, default=0) * BLOCK
    if highest < tar_ids.HALF - BLOCK:
        try:
            origin = source.image.fs_type if source.image else source.fd
            idmapped.set_idmap(mount, source.path, tar_ids.THROWAWAY, origin)
        except NotIdmappableError as err:
            _LOG.debug("%s: %s", source.path, err.reason)
        else:
            return tar_ids.UPPER_ROWS
    # As users of the host, who have none of their rights there.
    return tar_ids.IDENTITY


def _warn(path: str, made: Creation) -> None:
    if made.changed:
        _LOG.warning(
            "%s: %d files changed while they were read, or went away; what is "
            "in the archive of each is as it was at some moment",
            path,
            made.changed,
        )
    if made.devices:
        _LOG.info("%s: %d device nodes were left out", path, made.devices)
