# SPDX-License-Identifier: Apache-2.0
"""Root filesystems out of tar archives, with owners shifted or as they are.

GNU tar does it, in a user namespace and confined to the new tree. For a
shifted tree that namespace has the container's ID maps, and the kernel writes
shifted owners, ACLs and capabilities. For one that is not, tar works through
an idmapped mount that takes its owners back to what they are in the archive.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from lxc_userns.arguments import checked, refuse
from lxc_userns.exceptions import RootfsError, UnmappedIdsError
from lxc_userns.idmap import IdMaps
from lxc_userns.linux import mount_api
from lxc_userns.linux.safe_path import ROOT_ONLY, Trust
from lxc_userns.rootfs import exposure
from lxc_userns.rootfs.archive import formats, meter, oci, staging, tar
from lxc_userns.rootfs.archive.formats import Archive
from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.rootfs.archive.staging import StagingDirectory
from lxc_userns.rootfs.archive.tar import Destination, Extraction, Progress
from lxc_userns.rootfs.archive.tar_ids import THROWAWAY
from lxc_userns.rootfs.shifting import ipc, worker_pool
from lxc_userns.rootfs.shifting.state import State
from lxc_userns.rootfs.shifting.translation import Translation
from lxc_userns.rootfs.shifting.tree import Tree, open_tree
from lxc_userns.rootfs.views import idmapped
from lxc_userns.text import printable

Path = str | os.PathLike[str]
Work = Callable[..., Extraction]

_ATTRIBUTES = (
    mount_api.MOUNT_ATTR_NOSUID
    | mount_api.MOUNT_ATTR_NODEV
    | mount_api.MOUNT_ATTR_NOEXEC
)
_CALLED: Final = {
    "path": (str, os.PathLike),
    "id_maps": (IdMaps, type(None)),
    "limits": (UnpackLimits, type(None)),
    "progress": (Callable, type(None)),
}


@dataclass(frozen=True, slots=True)
class UnpackReport:
    """Report on an archive that was unpacked.

    :param inodes: inodes of the new tree, hard links counted once.
    :param skipped: device nodes of the archive, which were left out: a
        container may not make any, and libvirt makes those of ``/dev``; and
        hard links to them.
    :param whiteouts: character devices of number 0:0, by which overlayfs says
        that a file of another layer is gone. No device is behind them, and
        they are made like files.
    :param whiteout_files: regular files that say the same by names that begin
        with ``.wh.``, made as the files that they are. Nothing is removed for
        either: an archive that has some is a layer, and no whole tree. Of an
        OCI image: the files of that name in its layers, none of which is made.
    """

    inodes: int
    skipped: int
    whiteouts: int = 0
    whiteout_files: int = 0


def is_archive(path: Path, trust: Trust = ROOT_ONLY) -> bool:
    """Return whether a file is a tar archive in a form that can be unpacked.

    Of a compressed one only that is known: not what is in it.

    :param trust: rules for the directories above it.
    """
    try:
        check_archive(path, trust)
        return True
    except RootfsError:
        return False


def check_archive(path: Path, trust: Trust = ROOT_ONLY) -> None:
    """Check that a file is a tar archive, as :func:`is_archive` does.

    :param trust: rules for the directories above it.
    :raises RootfsError: if it is none, or others could replace it.
    """
    with formats.opened(path, trust):
        pass


@checked(**_CALLED, archive=(str, os.PathLike))
def unpack(
    archive: Path,
    path: Path,
    id_maps: IdMaps | None,
    *,
    shifted: bool = True,
    limits: UnpackLimits | None = None,
    progress: Progress | None = None,
    trust: Trust = ROOT_ONLY,
) -> UnpackReport:
    """Unpack a tar archive to a new directory.

    Whatever is in the archive, nothing outside of the directory changes, and
    the directory has its content only once all of the archive is there.
    Owners are the numbers in the archive, not its names.

    :param archive: a file, plain or compressed by gzip, xz or zstd.
    :param path: the directory; it is not there yet, or empty. One that is
        there is kept with its project ID, inode flags, ACLs, mode and
        attributes, and gets the owner of the archive's root directory; it can
        be a mount point. No one but root can replace it or the archive.
    :param id_maps: the ID maps to shift for; of no account unless shifted.
    :param shifted: whether owners become host IDs, as :func:`shift` makes
        them. If not they are on disk as in the archive, for a view; then only
        root may be able to reach the directory.
    :param limits: what it may take, None for those of a new
        :class:`~lxc_userns.rootfs.archive.limits.UnpackLimits`. Whatever they
        are, a twentieth of the filesystem stays free, or 1 GiB of it, and as
        many of its inodes, or 10,000.
    :param progress: called with the bytes of the archive read so far, some
        ten times a second.
    :param trust: rules for the directories above the archive.
    :raises UnmappedIdsError: if the maps do not cover an owner.
    :raises NotIdmappableError: if it is not to be shifted, and the filesystem
        cannot be idmapped.
    :raises ExposedTreeError: if it is not to be shifted, and users of the host
        could reach it.
    :raises PrerequisiteError: if tar or what decompresses is missing.
    :raises RootfsError: if a limit is exceeded, or anything else is in the
        way.
    """
    maps = _wanted_maps(id_maps, shifted)
    with formats.opened(archive, trust) as source:
        work = partial(tar.extract, source)
        taken = limits or UnpackLimits()
        plan = _Plan(source.path, [source], work, taken, progress)
        report = _unpack(plan, path, maps)
    _warn(source.path, report)
    return report


@checked(**_CALLED, layout=(str, os.PathLike))
def unpack_oci(
    layout: Path,
    path: Path,
    id_maps: IdMaps | None,
    *,
    shifted: bool = True,
    limits: UnpackLimits | None = None,
    progress: Progress | None = None,
    trust: Trust = ROOT_ONLY,
) -> UnpackReport:
    """Unpack the image of an OCI image layout to a new directory.

    As :func:`unpack`, with its layers one over the other, and without what
    their whiteouts hide.

    :param layout: a directory with ``oci-layout``, ``index.json`` and
        ``blobs``, in which no one but root can write. It has one image for
        this machine.
    :param path: as for :func:`unpack`; so are the rest. The limits are for
        all layers together.
    :raises RootfsError: also if a blob has not the digest that is stated.
    """
    maps = _wanted_maps(id_maps, shifted)
    limits = limits or UnpackLimits()
    with oci.opened(layout, limits, trust) as layers:
        shown = printable(os.fspath(layout))
        work = partial(tar.extract_layers, layers)
        plan = _Plan(shown, layers, work, limits, progress)
        return _unpack(plan, path, maps)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Plan of an unpacking.

    :param path: what is unpacked, for messages.
    :param archives: the archives that it has.
    :param work: extracts them.
    :param limits: what that may take.
    :param progress: as for :func:`unpack`.
    """

    path: str
    archives: Sequence[Archive]
    work: Work
    limits: UnpackLimits
    progress: Progress | None


def _wanted_maps(id_maps: IdMaps | None, shifted: bool) -> IdMaps | None:
    if shifted and id_maps is None:
        refuse("unpack", "id_maps", None, "is needed to shift; give IdMaps")
    return id_maps if shifted else None


def _unpack(plan: _Plan, path: Path, maps: IdMaps | None) -> UnpackReport:
    with staging.open_staging(path) as place:
        if maps is None:
            exposure.check_only_root_can_reach(place.way, place.path)
        _check_room(plan, place)
        work = partial(
            plan.work,
            limits=plan.limits,
            progress=plan.progress,
        )
        extracted, inodes = _fill(plan.path, place, maps, work)
        place.publish()
    return UnpackReport(
        inodes,
        extracted.devices,
        extracted.whiteouts,
        extracted.whiteout_files,
    )


def _warn(path: str, report: UnpackReport) -> None:
    marks = report.whiteouts + report.whiteout_files
    if marks:
        logging.getLogger(__name__).warning(
            "%s: %d whiteouts, made like other files: it is a layer of an "
            "image, and what they stand for is in another",
            path,
            marks,
        )


def _check_room(plan: _Plan, place: StagingDirectory) -> None:
    """Check that there is room for it even if it does not get larger."""
    size = sum(os.fstat(each.fd).st_size for each in plan.archives)
    short = meter.find_shortage(place.fd, size)
    if short is not None:
        raise RootfsError(plan.path, tar.SHORTAGES[short])


def _fill(
    source: str,
    place: StagingDirectory,
    maps: IdMaps | None,
    work: Work,
) -> tuple[Extraction, int]:
    """Make the tree.

    :param source: what is unpacked, for messages.
    :param maps: the ID maps if it is to be shifted, else None.
    :param work: extracts it to a place.
    :returns: what tar did, and the number of inodes.
    """
    text_acls = False
    while True:
        with place.new_tree(maps.root if maps else (0, 0)) as fd:
            if maps is not None:
                # Now rather than after a long time, for the filesystem may
                # not keep it.
                _remember(fd, place.path, State(maps))
            found = _extract(
                source,
                place,
                fd,
                maps,
                partial(work, text_acls=text_acls),
            )
            if not found.has_lost_acls:
                # What it looks at is in memory, and what it writes cannot be
                # on the disk later than the rename.
                with place.syncing():
                    return found, _finish(fd, place.path, maps)
        text_acls = True


def _extract(
    source: str,
    place: StagingDirectory,
    fd: int,
    maps: IdMaps | None,
    work: Work,
) -> Extraction:
    with (
        _view(fd, place.path, maps) as view,
        idmapped.user_namespace(maps or THROWAWAY) as namespace,
    ):
        found = work(Destination(view, namespace, place.fd))
    if found.owners:
        raise _explain(found.owners, source, maps)
    return found


@contextmanager
def _view(fd: int, path: str, maps: IdMaps | None) -> Iterator[int]:
    """Open the new tree, on a mount that hangs nowhere."""
    if maps is None:
        with idmapped.idmapped_mount(
            fd, path, THROWAWAY, _ATTRIBUTES, _another_way
        ) as view:
            yield view
        return
    with idmapped.cloned_mount(fd, path, _ATTRIBUTES) as view:
        yield view


def _another_way(fs_type: str | None) -> str:
    otherwise = "unpack it shifted"
    if fs_type is None:
        return otherwise
    return idmapped.REMEDIES.get(
        fs_type, f"take another filesystem, or {otherwise}"
    )


def _explain(
    owners: Iterable[tuple[int, int]], path: str, maps: IdMaps | None
) -> RootfsError:
    """Return why some owners could not be given."""
    covering = maps or THROWAWAY
    uids = {uid for uid, _ in owners if covering.shift_uid(uid) is None}
    gids = {gid for _, gid in owners if covering.shift_gid(gid) is None}
    if maps is None:
        listed = ", ".join(map(str, sorted(uids | gids)))
        return RootfsError(
            path, f"owners above {2**31 - 2} cannot be unpacked: {listed}"
        )
    return UnmappedIdsError(path, sorted(uids), sorted(gids))


def _remember(fd: int, path: str, state: State) -> None:
    with open_tree(path, shared=False, fd=fd) as tree:
        tree.write_state(state)


def _finish(fd: int, path: str, maps: IdMaps | None) -> int:
    """Look at all that was unpacked, and remember that it is shifted.

    :returns: the number of inodes.
    """
    with open_tree(path, shared=False, fd=fd) as tree:
        walked = worker_pool.walk(_look(tree, maps), path)
        inodes = walked.inodes + 1
        if maps is not None:
            if walked.shifted:
                reason = f"{walked.shifted} inodes have not arrived shifted"
                raise RootfsError(path, reason)
            status = os.fstat(tree.fd)
            owner = status.st_uid, status.st_gid
            state = State(maps, inodes=inodes, owner=owner, devices=0)
            tree.write_state(state)
    return inodes


def _look(tree: Tree, maps: IdMaps | None) -> worker_pool.WalkTask:
    """Return a walk that finds what is not as it is in a finished tree."""
    return worker_pool.WalkTask(
        root=tree.fd,
        step=Translation(maps, maps).direct(),
        acts=False,
        left={},
        workers=min(len(os.sched_getaffinity(0)), ipc.MOST_WORKERS),
        lock=tree.lock,
    )
