# SPDX-License-Identifier: Apache-2.0
"""Root filesystems before a container sees them: directories and images."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import directory, mount_api, mounts, openat2, safe_path
from lxc_userns.linux.fd import owned, reopen
from lxc_userns.rootfs import exposure
from lxc_userns.rootfs.views import growth, idmapped, image

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.rootfs.views.image import Image
    from lxc_userns.spec.rootfs_kind import RootfsKind

_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFBLK)

#: What libvirt mounts on before the container's own root holds, in the
#: order it does; a link here would lead it out of the root filesystem.
MOUNTED_BY_LIBVIRT = (".oldroot", "dev", "proc", "sys")


@dataclass(frozen=True, slots=True)
class RootfsSource:
    """A root filesystem at hand.

    :param path: absolute path of the directory or image, without links.
    :param fd: descriptor of the root directory, for the host: owners are as
        on disk.
    :param image: the image, None for a directory.
    :param inode: inode number of a directory. None for an image: that can be
        written anew and keep its number.
    :param empty: as for :func:`exposure.check_only_root_can_reach`.
    """

    path: str
    fd: int
    image: Image | None = None
    inode: int | None = None
    empty: exposure.Empty | None = None

    @contextmanager
    def idmapped(self, id_maps: IdMaps) -> Iterator[int]:
        """Make an idmapped view, ``nodev``, mounted nowhere yet.

        :returns: its descriptor; it is gone afterwards unless attached.
        :raises NotIdmappableError: if the kernel or the filesystem cannot.
        :raises ExposedTreeError: if users of the host could reach it.
        """
        if self.image is None:
            with idmapped.idmapped_mount(
                self.fd, self.path, id_maps, mount_api.MOUNT_ATTR_NODEV
            ) as view:
                exposure.check_only_root_can_reach(
                    self.fd, self.path, self.empty
                )
                yield view
            return
        # Mounted nowhere else, it cannot be reached but through the view.
        with owned(self.image.mount()) as view:
            idmapped.set_idmap(view, self.path, id_maps, self.image.fs_type)
            yield view

    def bind(self, parent: int, name: str) -> None:
        """Mount it as it is, ``nodev``, on the directory ``parent/name``."""
        if self.image is None:
            mounts.bind(self.fd, parent, name)
            return
        with (
            owned(self.image.mount()) as view,
            directory.opened_in(parent, name) as target,
        ):
            mount_api.attach(view, target)


@contextmanager
def open_source(
    path: str,
    *,
    readonly: bool = False,
    fd: int | None = None,
    empty: exposure.Empty | None = None,
    kind: RootfsKind | None = None,
    grow: bool = False,
    id_maps: IdMaps | None = None,
) -> Iterator[RootfsSource]:
    """Open a directory, or mount a raw disk image nowhere.

    :param path: absolute path without links.
    :param readonly: whether an image is mounted read-only, so that others
        may do so at the same time.
    :param fd: ``O_PATH`` descriptor of it, if it is open; the path is then
        only for messages.
    :param empty: as for :func:`exposure.check_only_root_can_reach`.
    :param kind: ``directory`` or ``image`` if it has to be that.
    :param grow: whether the filesystem of an image is grown to all of it, if
        it is ext2 to ext4, xfs or btrfs, and written to.
    :param id_maps: those of the container, as whose root an ext4 is grown.
    :raises RootfsError: if it is neither, not the one that it has to be, or
        others could replace it.
    """
    with translated(RootfsError, path), ExitStack() as stack:
        if fd is None:
            fd = stack.enter_context(safe_path.opened(path))
        _check_kind(fd, path, kind)
        file = stack.enter_context(reopen(fd, os.O_RDONLY))
        if stat.S_ISDIR(os.fstat(file).st_mode):
            yield RootfsSource(
                path, file, inode=os.fstat(file).st_ino, empty=empty
            )
            return
        found = stack.enter_context(
            image.opened(file, path, readonly, grow=grow)
        )
        if found.grow:
            growth.grow_unmounted(found, id_maps)
        with (
            owned(found.mount()) as mount,
            directory.opened_in(mount, ".") as root,
        ):
            if found.grow:
                growth.grow(found, root)
            yield RootfsSource(path, root, found)


def check_image(fd: int, path: str) -> None:
    """Check that an image has a root filesystem, and mount nothing.

    :param fd: ``O_PATH`` descriptor of it.
    :param path: its path, for messages.
    :raises RootfsError: if it is no image, or none that could be mounted.
    """
    _check_kind(fd, path, "image")
    with translated(RootfsError, path), reopen(fd, os.O_RDONLY) as file:
        image.check(file, path)


def _check_kind(fd: int, path: str, kind: RootfsKind | None) -> None:
    mode = os.fstat(fd).st_mode
    # To open a device can be to start what it drives.
    if stat.S_IFMT(mode) not in _KINDS:
        raise RootfsError(
            path, "is neither a directory nor a disk image; give one"
        )
    is_directory = stat.S_ISDIR(mode)
    if kind == "image" and is_directory:
        raise RootfsError(path, "is a directory; give a disk image")
    if kind == "directory" and not is_directory:
        raise RootfsError(path, "is not a directory; give one")


def check_layout(tree: RootfsSource) -> None:
    """Check what libvirt will mount on.

    :raises RootfsError: if it has a link or a file where libvirt needs a
        directory.
    """
    with translated(RootfsError, tree.path):
        for name in MOUNTED_BY_LIBVIRT:
            try:
                mode = os.stat(
                    name, dir_fd=tree.fd, follow_symlinks=False
                ).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                raise RootfsError(
                    f"{tree.path}/{name}",
                    "is not a directory; make it one, or remove it",
                )


def check_program(tree: RootfsSource, path: str) -> None:
    """Check that a root filesystem has a program, before it is shifted.

    :param path: absolute path in the container.
    :raises RootfsError: if there is no such file.
    """
    try:
        mode = openat2.lookup(tree.fd, path).st_mode
    except OSError as err:
        if err.errno == errno.ENOSYS:
            return
        raise RootfsError(tree.path, f"has no {path}: {err.strerror}") from err
    if not (stat.S_ISREG(mode) and mode & 0o111):
        raise RootfsError(tree.path, f"{path} in it is no program; name one")


def add_oldroot(tree: RootfsSource, owner: tuple[int, int]) -> None:
    """Make the directory in which libvirt keeps the host's tree for a while.

    libvirt would make it too, and leaves it; this way it is in order before
    anything of the container runs.

    :param owner: the root of the container as it is on disk.
    """
    name = MOUNTED_BY_LIBVIRT[0]
    with translated(RootfsError, f"{tree.path}/{name}"):
        directory.make_in(tree.fd, name, 0o755)
        with directory.opened_in(tree.fd, name) as made:
            status = os.fstat(made)
            if (status.st_uid, status.st_gid) != owner:
                os.fchown(made, *owner)
