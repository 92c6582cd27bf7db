# SPDX-License-Identifier: Apache-2.0
"""Bind mounts by descriptor, and what is mounted."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Final

from lxc_userns.linux import libc, mount_api
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.linux.fd import open_file, owned

MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_PRIVATE = 1 << 18
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

#: Filesystems whose files are the kernel's own state.
KERNEL_STATE = frozenset(
    {
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs",
        "debugfs", "devpts", "efivarfs", "fusectl", "mqueue", "nsfs", "proc",
        "pstore", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs",
        "smackfs", "sysfs", "tracefs",
    }
)  # fmt: skip

#: Some ten thousand mounts; a container can make as many as it likes.
_MOST_BYTES = 4 << 20
#: Lines that are kept: those of the host, and of some tens of containers.
_MOST_KEPT = 2048
_WITHOUT_ROOT = frozenset({"idmapped", "nosuid"})
_KEPT = os.ST_RDONLY | os.ST_NOSUID | os.ST_NOEXEC

_mount = libc.function(
    "mount",
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
)
_statx = libc.function(
    "statx",
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)
#: Attributes and those that are known in struct statx, of 256 bytes.
_STATX: Final = struct.Struct("8xQ40xQ192x")
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000
_umount2 = libc.function("umount2", ctypes.c_char_p, ctypes.c_int)

_INDEX_BY_DEFAULT = "/sys/module/overlay/parameters/index"
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/PID/mountinfo`` (:manpage:`proc(5)`).

    :param number: the mount's ID.
    :param point: where it is mounted.
    :param fs_type: type of the filesystem.
    :param options: options of the mount, not of the filesystem.
    :param device: which filesystem, as ``major:minor``.
    :param root: what of that is mounted, a path in it.
    :param source: what was mounted, as whoever did it said: a block device,
        for one.
    :param fs_options: options of the filesystem.
    :param peers: the group of mounts on all of which appears what is mounted
        on one, None if it is in none (:manpage:`mount_namespaces(7)`).
    :param master: the group from which it only receives, None if there is
        none.
    :param parent: ID of the mount that it is mounted on.
    """

    number: int
    point: str
    fs_type: str
    options: frozenset[str] = frozenset()
    device: str = ""
    root: str = "/"
    source: str = ""
    fs_options: frozenset[str] = frozenset()
    peers: int | None = None
    master: int | None = None
    parent: int = 0

    @property
    def ignores_set_id(self) -> bool:
        """Return whether no program on it runs as the root of the host.

        So it is with ``nosuid``, and on an idmapped mount, on which root on
        disk is another user.
        """
        return not _WITHOUT_ROOT.isdisjoint(self.options)


def bind(source: int, parent: int, name: str) -> None:
    """Mount a directory on ``parent/name``, without what is mounted in it.

    Device nodes on the new mount cannot be opened (``nodev``), and what is
    mounted in the directory later does not turn up in it.

    :param source: descriptor of the directory.
    :param parent: descriptor of the directory that holds the mount point.
    :param name: name of the mount point, a directory and no link.
    :raises OSError: if the kernel refuses; nothing is mounted then.
    """
    with owned(_open(parent, name)) as target:
        try:
            _attach_copy(source, target)
        except OSError as err:
            if err.errno != errno.ENOSYS:
                raise
            _bind_by_path(source, target, parent, name)


def _attach_copy(source: int, target: int) -> None:
    with owned(mount_api.clone_mount(source)) as copy:
        mount_api.set_attributes(copy, mount_api.MOUNT_ATTR_NODEV)
        mount_api.attach(copy, target)


def _bind_by_path(source: int, target: int, parent: int, name: str) -> None:
    """Bind as before Linux 5.12: for a moment it is as its source."""
    _call_mount(source, target, MS_BIND)
    try:
        # The descriptor from before is below the new mount. Flags of a bind
        # mount can only be set once it is there.
        with owned(_open(parent, name)) as target:
            # A remount drops what it does not repeat: nosuid of the
            # source's mount, say. The low flag bits of statvfs are mount's.
            kept = os.fstatvfs(target).f_flag & _KEPT
            flags = MS_BIND | MS_REMOUNT | MS_NODEV | kept
            _call_mount(target, target, flags)
            _call_mount(target, target, MS_PRIVATE)
    except BaseException:
        unmount(parent, name)
        raise


def unmount(parent: int, name: str, *, lazy: bool = False) -> None:
    """Unmount what is mounted on ``parent/name`` topmost.

    :param parent: descriptor of the directory that holds the mount point.
    :param name: name of the mount point.
    :param lazy: detach it even if it is in use.
    :raises OSError: with ``EBUSY`` if it is in use, or something is mounted
        below it.
    """
    # A descriptor of the mount itself would keep it busy.
    path = f"/proc/self/fd/{parent}/{name}"
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    _umount2(os.fsencode(path), flags)


def mount_id(fd: int) -> int:
    """Return the ID of the mount that a descriptor was opened on."""
    return read_mount_id(f"/proc/self/fdinfo/{fd}")


def read_mount_id(fdinfo: str) -> int:
    """Return the ID of the mount that a descriptor was opened on.

    :param fdinfo: path of what ``/proc`` says of the descriptor, of whatever
        process.
    """
    with open(fdinfo, encoding="ascii", errors="replace") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            if key == "mnt_id":
                return int(value)
    raise OSError(f"{fdinfo} has no mnt_id")


def is_mount_point(parent: int, name: str) -> bool:
    """Return whether a mount is on ``parent/name``, which is no link.

    :raises FileNotFoundError: if there is nothing of that name.
    """
    # To open a mount, if only for a moment, keeps it from being unmounted.
    found = ctypes.create_string_buffer(_STATX.size)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT
    _statx(parent, os.fsencode(name), flags, 0, found)
    attributes, known = _STATX.unpack(found.raw)
    if known & _STATX_ATTR_MOUNT_ROOT:  # Since Linux 5.8.
        return bool(attributes & _STATX_ATTR_MOUNT_ROOT)
    flags = os.O_PATH | os.O_NOFOLLOW
    with open_file(name, flags, dir_fd=parent) as fd:
        return mount_id(fd) != mount_id(parent)


def read_mounts(pid: int | str = "self") -> Iterator[Mount]:
    """Yield all mounts of a process, in the order they were made.

    :param pid: its process ID, by default this one's.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as stream:
        yield from parse_all(stream)


def parse_all(stream: BinaryIO) -> Iterator[Mount]:
    """Read ``mountinfo``, which may be that of somebody hostile.

    :raises BoundExceededError: if that is unreasonably much.
    """
    left = _MOST_BYTES
    for line in stream:
        left -= len(line)
        if left < 0:
            raise BoundExceededError(
                f"has mounts that take more than {_MOST_BYTES} bytes to list"
            )
        yield parse(line)


# Each container that is looked at takes several readings of the same lines.
@lru_cache(maxsize=_MOST_KEPT)
def parse(line: bytes) -> Mount:
    """Read a line of ``mountinfo``."""
    before, _, after = line.rstrip(b"\n").partition(b" - ")
    # By one blank each: a source can be empty.
    fields = before.split(b" ")
    fs_type, source, fs_options = after.split(b" ", 2)
    tags = dict(tag.split(b":") for tag in fields[6:] if b":" in tag)
    return Mount(
        int(fields[0]),
        _unescaped(fields[4]),
        _unescaped(fs_type),
        frozenset(fields[5].decode("ascii").split(",")),
        fields[2].decode("ascii"),
        _unescaped(fields[3]),
        _unescaped(source),
        frozenset(os.fsdecode(fs_options).split(",")),
        _number(tags.get(b"shared")),
        _number(tags.get(b"master")),
        int(fields[1]),
    )


def points_below(path: str) -> list[str]:
    """Return where something is mounted below a directory.

    :param path: absolute path without links.
    """
    prefix = path.rstrip("/") + "/"
    points = (mount.point for mount in read_mounts())
    return [point for point in points if point.startswith(prefix)]


def find_mount(fd: int) -> Mount | None:
    """Return the mount that a descriptor is on, None if it is detached."""
    number = mount_id(fd)
    found = (mount for mount in read_mounts() if mount.number == number)
    return next(found, None)


def splits_links(mount: Mount) -> bool:
    """Return whether a change of a file takes it from its other names.

    So it is on an overlay without an index, for files of a lower layer
    (the kernel's Documentation/filesystems/overlayfs.rst, "Non-standard
    behavior").
    """
    if mount.fs_type != "overlay":
        return False
    if not mount.fs_options.isdisjoint(("index=on", "index=off")):
        return "index=off" in mount.fs_options
    try:
        # What goes without saying.
        with open(_INDEX_BY_DEFAULT, encoding="ascii") as stream:
            return stream.read(1) != "Y"
    except FileNotFoundError:
        return True


def _number(field: bytes | None) -> int | None:
    return None if field is None else int(field)


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(_unescape, field))


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 8),))


def _open(parent: int, name: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _call_mount(source: int, target: int, flags: int) -> None:
    paths = [f"/proc/self/fd/{fd}".encode() for fd in (source, target)]
    _mount(*paths, None, flags, None)
