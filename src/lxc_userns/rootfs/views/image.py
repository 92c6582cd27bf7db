# SPDX-License-Identifier: Apache-2.0
"""Raw disk images: a filesystem in a file or on a block device.

Of a file that is partitioned it is the one in the partition that is known as
the root filesystem.

libvirt cannot mount one for a container with ID maps: it would do so inside,
where the kernel lets no one mount a disk.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from lxc_userns.exceptions import ImageError, RootfsError
from lxc_userns.linux import block_devices, btrfs, loop, mount_api
from lxc_userns.linux.fd import reopen
from lxc_userns.rootfs import exposure
from lxc_userns.rootfs.views import (
    fstype,
    growth,
    partition_growth,
    partitions,
    superblock,
)
from lxc_userns.rootfs.views.partitions import Partition

#: Types of filesystem and what they are mounted with. ext2 and ext3 are
#: mounted as ext4, for only under that name does their driver support
#: idmapped mounts. An image can ask in its superblock that an error in it be
#: the host's end (ext4(5), errors). Copies of one image have the same UUID
#: (xfs(5)).
_OPTIONS: Mapping[str, Mapping[str, str | None]] = {
    "ext4": {"errors": "remount-ro"},
    "xfs": {"nouuid": None},
    "btrfs": {},
    "squashfs": {},
    "erofs": {},
}
_NEVER_WRITTEN = ("squashfs", "erofs")
_SHOWN = "ext2, ext3, " + ", ".join(_OPTIONS)
_REASONS = {
    errno.ENODEV: "this kernel has no driver for it",
    errno.EROFS: "it was not unmounted in order, and read-only its log "
    "cannot be replayed; mount it for writing once",
    errno.EEXIST: "another filesystem with the same UUID is mounted; give "
    "this one another",
    errno.EBUSY: "the device is in use",
}


@dataclass(frozen=True, slots=True)
class Image:
    """A filesystem that can be mounted while this is open.

    :param path: the image as the caller knows it.
    :param fs_type: type of the filesystem, ``ext4`` for ext2 and ext3 too.
    :param device: path of the block device.
    :param number: its number, as ``st_rdev`` has it.
    :param fd: descriptor of it.
    :param readonly: whether nothing is written to it.
    :param grow: whether it is to be grown when it is mounted first.
    """

    path: str
    fs_type: str
    device: str
    number: int
    fd: int
    readonly: bool
    grow: bool

    def mount(self) -> int:
        """Mount it, ``nodev``, on no directory.

        :returns: an ``O_PATH`` descriptor of the root; closing it unmounts
            it, unless it was attached.
        :raises RootfsError: if the kernel refuses.
        """
        options = {**_OPTIONS[self.fs_type]}
        attributes = mount_api.MOUNT_ATTR_NODEV
        if self.readonly:
            options["ro"] = None
            attributes |= mount_api.MOUNT_ATTR_RDONLY
        try:
            return mount_api.mount_device(
                self.fs_type, self.device, self.number, options, attributes
            )
        except OSError as err:
            why = _REASONS.get(err.errno or 0, err.strerror)
            reason = f"its {self.fs_type} cannot be mounted: {why}"
            raise RootfsError(self.path, reason) from err


def check(fd: int, path: str) -> None:
    """Check that an image has a root filesystem, and mount nothing.

    :param fd: descriptor of the file or block device, read-only.
    :param path: the same as the caller knows it.
    :raises ImageError: as :func:`opened`, as far as that is told.
    """
    _find_filesystem(fd, path)


@contextmanager
def opened(
    fd: int, path: str, readonly: bool, *, grow: bool = False
) -> Iterator[Image]:
    """Open an image, so that it can be mounted.

    What was mounted and attached by the end goes on to work; the device is
    freed with it.

    :param fd: descriptor of the file or block device, read-only.
    :param path: the same as the caller knows it.
    :param readonly: whether nothing is to be written to it. An image that is
        written to is for one user alone.
    :param grow: whether it is to be grown; its partition, if it is in one, is
        before. What is not written to stays as it is.
    :raises ExposedTreeError: if it is a block device that is mounted where
        users of the host can reach it.
    :raises ImageError: if it is not an image of one filesystem, that is not
        the only one that may be the root filesystem, or it asks for other
        devices.
    :raises RootfsError: if it is in use.
    """
    place, fs_type = _find_filesystem(fd, path)
    readonly = readonly or fs_type in _NEVER_WRITTEN
    grow = grow and not readonly and growth.can_grow(fs_type)
    with ExitStack() as stack:
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            _check_device(path)
            exposure.check_device_not_exposed(fd, path)
            device, name = fd, path
        else:
            mode = os.O_RDONLY if readonly else os.O_RDWR
            file = stack.enter_context(reopen(fd, mode))
            attached = _attached(file, path, readonly, place, grow)
            device, name = stack.enter_context(attached)
        _check_alone(device, path, fs_type)
        number = os.fstat(device).st_rdev
        yield Image(path, fs_type, name, number, device, readonly, grow)


def _check_device(path: str) -> None:
    # The kernel takes it by path, which is no one else's to change there.
    if not path.startswith("/dev/"):
        raise RootfsError(
            path, "is a block device; give it by its path below /dev"
        )


@contextmanager
def _attached(
    file: int, path: str, readonly: bool, place: Partition | None, grow: bool
) -> Iterator[tuple[int, str]]:
    part = partial(_find_part, file, path, place, grow) if place else None
    with ExitStack() as stack:
        try:
            found = stack.enter_context(
                loop.attached(file, path, readonly=readonly, part=part)
            )
        except BlockingIOError as err:
            raise RootfsError(
                path,
                "is in use already, and an image that is written to is for "
                "one alone; unmount it there, or share it by the strategy "
                "overlay",
            ) from err
        yield found


def _find_part(
    file: int, path: str, place: Partition, grow: bool
) -> tuple[int, int]:
    """Return where a partition begins and its length, grown if asked for."""
    if grow:
        place = partition_growth.grow(file, path, place)
    return place.start, place.size


def _check_alone(device: int, path: str, fs_type: str) -> None:
    """Check that the kernel will need no other device.

    :param device: descriptor of the block device, by which the kernel gets
        at the image too. Whoever can write to the image meanwhile can still
        change it in between.
    :raises ImageError: if it asks for one.
    """
    head = os.pread(device, superblock.LENGTH, 0)
    if fstype.read(head).filesystems != (fs_type,):
        raise RootfsError(path, "is changed while it is opened; try again")
    objection = superblock.find_objection(fs_type, head)
    if objection is not None:
        raise ImageError(path, f"its {fs_type} {objection}")
    if fs_type == "btrfs" and btrfs.mixes_equal_ids():
        _check_unknown(device, path, superblock.btrfs_id(head))


def _check_unknown(device: int, path: str, fsid: str) -> None:
    """Check that no other device is mounted under the UUID of a btrfs."""
    found = btrfs.devices_of(fsid)
    own = block_devices.name(os.fstat(device).st_rdev)
    if found and found != [own]:
        raise RootfsError(
            path,
            f"its UUID {fsid} is that of the btrfs mounted from "
            f"{', '.join(found)}; give it another one by btrfstune -u",
        )


def _find_filesystem(fd: int, path: str) -> tuple[Partition | None, str]:
    """Return the partition to take, if there are any, and what is in it."""
    found = fstype.read(os.pread(fd, fstype.LENGTH, 0))
    if found.filesystems or not found.is_partitioned:
        return None, _choose_type(found, path)
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        raise ImageError(
            path,
            "has a partition table; give the partition that is the root "
            "filesystem",
        )
    place = partitions.find_root(fd, path)
    head = os.pread(fd, min(fstype.LENGTH, place.size), place.start)
    text = f"{path}, partition {place.number}"
    return place, _choose_type(fstype.read(head), text)


def _choose_type(found: fstype.Signature, path: str) -> str:
    """Return the type of the filesystem in an image."""
    if len(found.filesystems) > 1:
        kinds = " and ".join(found.filesystems)
        raise ImageError(
            path,
            f"has signatures of {kinds}; remove those that are left over, "
            "see wipefs(8)",
        )
    if found.filesystems:
        return found.filesystems[0]
    # First, for a service may show no more than 255 characters.
    other = f"{found.other}, and " if found.other else ""
    remedy = ""
    if found.other in fstype.OF_QEMU:
        words = ("qemu-img", "convert", "-f", fstype.OF_QEMU[found.other])
        argv = (*words, "-O", "raw", path, f"{path}.raw")
        remedy = f"; make one: {shlex.join(argv)}"
    raise ImageError(
        path,
        f"is {other}no raw image of {_SHOWN}; a root filesystem is that, a "
        "directory, or a tar archive, plain or compressed by gzip, xz or zstd"
        f"{remedy}",
    )
