# SPDX-License-Identifier: Apache-2.0
"""Volumes: files of the host, opened once and mounted for a container.

The path of a source is looked up once for each start. Whatever becomes of it
then, what is looked at and mounted is what it led to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns.exceptions import ExposedTreeError, RootfsError, translated
from lxc_userns.linux import file_identity, mount_api, mounts, safe_path
from lxc_userns.linux.fd import open_file, owned
from lxc_userns.rootfs import exposure, refusals
from lxc_userns.rootfs.shifting import shift
from lxc_userns.rootfs.views import idmapped, volume_targets
from lxc_userns.rootfs.views.strategies import ShiftOptions
from lxc_userns.text import printable

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.linux.file_identity import FileIdentity
    from lxc_userns.spec.volume import Volume

_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFSOCK)


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a volume, open.

    :param volume: the volume.
    :param fd: ``O_PATH`` descriptor of the source.
    :param origin: the mount that it is on.
    :param empty: as for :func:`exposure.check_only_root_can_reach`.
    """

    volume: Volume
    fd: int
    origin: mounts.Mount
    empty: exposure.Empty | None = None

    @property
    def identity(self) -> FileIdentity | None:
        """Return which file it is; None if that may change.

        Services make a socket anew each time they start.
        """
        if self._kind == stat.S_IFSOCK and not self.volume.owned:
            return None
        return file_identity.read(self.fd)

    @property
    def is_directory(self) -> bool:
        """Return whether it is mounted on a directory, else on a file."""
        return self._kind == stat.S_IFDIR

    @property
    def _kind(self) -> int:
        return stat.S_IFMT(os.fstat(self.fd).st_mode)

    @property
    def _shown(self) -> str:
        return printable(self.volume.source)

    def mount(
        self,
        id_maps: IdMaps | None,
        parent: int,
        name: str,
        options: ShiftOptions | None = None,
    ) -> None:
        """Mount it for a container.

        What is mounted in it is left out, now and later. What its own mount
        forbids stays forbidden.

        :param id_maps: those of the container; None if it has none, and sees
            all owners as they are.
        :param parent: descriptor of the directory that holds the mount point.
        :param name: name of the mount point, a directory for a directory,
            else a file.
        :param options: how to shift it, if that is to be done.
        :raises NotIdmappableError: if the kernel or its filesystem cannot do
            what is asked for.
        :raises ExposedTreeError: if users of the host could get at what the
            container makes in it.
        :raises RootfsError: if anything else is in the way; nothing is
            mounted then.
        """
        flags = os.O_PATH | os.O_NOFOLLOW
        with (
            translated(RootfsError, self._shown),
            self._view(id_maps, options) as view,
            open_file(name, flags, dir_fd=parent) as target,
        ):
            mount_api.attach(view, target)

    def _view(
        self, id_maps: IdMaps | None, options: ShiftOptions | None
    ) -> AbstractContextManager[int]:
        if id_maps is None or self.volume.owners == "none":
            return self._as_it_is()
        if self.volume.owners == "host":
            raise RootfsError(
                self._shown,
                "keeps the host's owners, which a container with ID maps "
                "cannot have; give the option idmap, or chown",
            )
        if self.volume.owners == "chown":
            how = options or ShiftOptions()
            how.shift(self._shown, self.fd, id_maps)
            return self._as_it_is()
        return self._idmapped(id_maps)

    def _as_it_is(self) -> AbstractContextManager[int]:
        return idmapped.cloned_mount(
            self.fd, self._shown, self._attributes, _newer_kernel
        )

    @contextmanager
    def _idmapped(self, id_maps: IdMaps) -> Iterator[int]:
        with idmapped.idmapped_mount(
            self.fd,
            self._shown,
            id_maps,
            self._attributes,
            self._another_option,
        ) as view:
            self.check_idmapped(id_maps)
            yield view

    @property
    def _attributes(self) -> int:
        attributes = 0
        if self.volume.nosuid:
            attributes |= mount_api.MOUNT_ATTR_NOSUID
        if self.volume.nodev:
            attributes |= mount_api.MOUNT_ATTR_NODEV
        # A socket can be connected to all the same, but no one changes whom
        # its permissions let in.
        if self.volume.readonly or self._kind == stat.S_IFSOCK:
            attributes |= mount_api.MOUNT_ATTR_RDONLY
        return attributes

    def check_idmapped(self, id_maps: IdMaps | None) -> None:
        """Refuse what :meth:`mount` would not idmap for a container.

        :raises ExposedTreeError: as :meth:`check_not_exposed`.
        :raises RootfsError: if its owner is no guest ID.
        """
        if id_maps is not None and self.volume.owners == "idmap":
            self._check_guest_owned(id_maps)
            self.check_not_exposed()

    def _check_guest_owned(self, id_maps: IdMaps) -> None:
        """Refuse what is shifted on disk: it would be shifted twice."""
        if not self.is_directory:
            return
        if shift.read_state(self._shown, fd=self.fd) is not None:
            raise RootfsError(
                self._shown,
                "is shifted on disk, and would be shifted twice; unshift it "
                "first, or give the volume the option chown",
            )
        refusals.check_guest_root(self.fd, self._shown, id_maps)

    def check_not_exposed(self) -> None:
        """Refuse to let others have what the container's root makes of it.

        The owners of what is idmapped are not shifted on disk: a set-user-ID
        program that is made there is set-user-ID root to the host
        (CVE-2025-64507).

        :raises ExposedTreeError: if users of the host could get at it.
        """
        if self.volume.owners != "idmap":
            return
        if self._attributes & mount_api.MOUNT_ATTR_RDONLY:
            return
        # A copy of a mount stays read-only whatever becomes of that.
        if "ro" in self.origin.options:
            return
        try:
            exposure.check_only_root_can_reach(
                self.fd, self._shown, self.empty
            )
        except ExposedTreeError as err:
            raise ExposedTreeError(
                self._shown,
                f"{err.reason}, or mount it nosuid on the host, or give the "
                "volume the option ro or none",
            ) from err

    def _another_option(self, fs_type: str | None) -> str:
        options = "none or chown" if self.is_directory else "none"
        return idmapped.REMEDIES.get(
            fs_type or "", f"give the volume the option {options}"
        )


@contextmanager
def opened(
    volume: Volume,
    roots: Collection[str] = (),
    empty: exposure.Empty | None = None,
) -> Iterator[Source]:
    """Open the source of a volume, and check that it can be one.

    :param roots: as for :class:`safe_path.Trust`.
    :param empty: as for :func:`exposure.check_only_root_can_reach`.
    :raises RootfsError: if it is not there, others could replace it, or it
        is nothing to be mounted.
    """
    trust = safe_path.Trust(roots, any_owner=volume.owned)
    with ExitStack() as stack:
        with translated(RootfsError, volume.source):
            try:
                fd = safe_path.open_fd(volume.source, trust)
            except safe_path.ReplaceableError as err:
                reason = f"{err}, or give the volume the option owned"
                raise RootfsError(volume.source, reason) from err
            stack.enter_context(owned(fd))
            origin = _check(volume, fd)
        yield Source(volume, fd, origin, empty)


def check_targets(root: int, sources: Sequence[Source]) -> None:
    """Check where libvirt would mount volumes in a root filesystem.

    :param root: descriptor of the root directory as the container will see
        it: of the view, as what an overlay has changed counts too.
    :param sources: the volumes; a domain has them with parents first.
    :raises RootfsError: if a link leads a target out of the root filesystem,
        libvirt could not mount there, or one volume would hide another.
    """
    taken: list[volume_targets.Names] = []
    mounted = [(each.volume.target, each.fd) for each in sources]
    for number, place in _follow(root, mounted):
        _check_place(sources[number], place)
        for names in taken:
            if names[: len(place.names)] == place.names:
                raise RootfsError(
                    sources[number].volume.target,
                    f"would hide the volume on /{'/'.join(names)}; give "
                    "each a place of its own",
                )
        taken.append(place.names)


def follow_targets(
    root: int, mounted: Sequence[tuple[str, int]]
) -> dict[str, str]:
    """Return where links in a root filesystem lead the targets of volumes.

    :param root: as for :func:`check_targets`.
    :param mounted: targets, each with a descriptor of what is mounted there.
    :returns: paths without links, by target.
    :raises RootfsError: as for :func:`check_targets`.
    """
    return {
        mounted[number][0]: f"/{'/'.join(place.names)}"
        for number, place in _follow(root, mounted)
    }


def _follow(
    root: int, mounted: Sequence[tuple[str, int]]
) -> Iterator[tuple[int, volume_targets.FollowedTarget]]:
    """Follow targets in the order in which libvirt mounts there.

    :returns: which each is, and where it leads with those before mounted.
    """
    covers: dict[volume_targets.Names, int] = {}
    order = range(len(mounted))
    for number in sorted(order, key=lambda each: mounted[each][0].count("/")):
        target, fd = mounted[number]
        with translated(RootfsError, target):
            place = volume_targets.follow(root, target, covers)
        yield number, place
        covers[place.names] = fd


def _check_place(source: Source, place: volume_targets.FollowedTarget) -> None:
    target = source.volume.target
    if place.is_missing and not source.is_directory:
        raise RootfsError(
            target,
            "its directory is not in the root filesystem, and libvirt makes "
            "none for a file; make it there",
        )
    if place.mode is None:
        return
    if stat.S_ISDIR(place.mode) != source.is_directory:
        kinds = ("a directory", "no directory")
        there, given = kinds if source.is_directory is False else kinds[::-1]
        raise RootfsError(
            target,
            f"is {there} in the root filesystem, and {source._shown} is "
            f"{given}; give another target",
        )


def _check(volume: Volume, fd: int) -> mounts.Mount:
    """Check that a file can be mounted, and return the mount it is on."""
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if volume.image and kind != stat.S_IFREG:
        raise RootfsError(
            volume.source, "is no regular file; give a raw disk image"
        )
    if kind not in _KINDS:
        raise RootfsError(
            volume.source,
            "is neither a directory nor a regular file nor a socket; give one",
        )
    if kind != stat.S_IFDIR and volume.owners == "chown":
        raise RootfsError(
            volume.source,
            "is not a directory, and only those are shifted on disk; give the "
            "directory that it is in, or the option idmap",
        )
    origin = mounts.find_mount(fd)
    if origin is None:
        raise RootfsError(
            volume.source,
            "is on no filesystem that is mounted here; mount it on the host",
        )
    if origin.fs_type in mounts.KERNEL_STATE:
        raise RootfsError(
            volume.source,
            f"is on {origin.fs_type}, which shows the kernel's state and "
            "holds no data; give a directory that does",
        )
    return origin


def _newer_kernel(_: str | None) -> str:
    return "volumes need that"
