# SPDX-License-Identifier: Apache-2.0
"""Whether users of the host can reach a tree.

The owners of an idmapped tree are not shifted on disk: what the container's
root makes set-user-ID there is set-user-ID root for whoever can execute it on
the host (CVE-2025-64507). So one of the directories above it has to be closed
to everybody but root, and none from there up may be anybody else's to
replace. The tree's own directory does not count: the container's root can
change its mode.

All of that has to hold on every way to the tree: what another mount shows of
it counts too. Not so an idmapped one, on which root on disk is not root, nor
one with ``nosuid``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePath

from lxc_userns.exceptions import ReachableError
from lxc_userns.linux import mounts

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_HARMLESS = {"idmapped", "nosuid"}
#: Where a directory is not one tree's alone, whose mode could be changed for
#: it: with so few components, or here.
_FEW = 2
_SHARED = ("/var/lib", "/usr/local")


def check_unreachable(fd: int, path: str) -> None:
    """Check that only root can reach a file or directory.

    :param fd: descriptor of it; its parents are found from there, whatever
        becomes of the path meanwhile.
    :param path: the same as the caller knows it.
    :raises ReachableError: if others can, with what to do.
    """
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        raise ReachableError(
            path,
            f"the file has {status.st_nlink} names (hard links), and users "
            "of the host may reach it by another; make a copy of its own",
        )
    own = mounts.find_mount(fd)
    if own is None or not _is_harmless(own):
        _check_way(fd, path)
    for mount, place in _other_places(fd):
        _check_place(mount, place, path)


def check_device_unreachable(fd: int, path: str) -> None:
    """Check that only root can reach what is on a block device.

    :param fd: descriptor of the device.
    :param path: the same as the caller knows it.
    :raises ReachableError: if it is mounted where others can.
    """
    device = os.fstat(fd).st_rdev
    for mount in mounts.read_mounts():
        if not _is_harmless(mount) and _is_of_device(mount, device):
            _check_place(mount, mount.point, path)


def _check_place(mount: mounts.Mount, place: str, path: str) -> None:
    try:
        fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # Another mount hides it.
    try:
        if mounts.mount_id(fd) == mount.number:
            _check_way(fd, path, place)
    finally:
        os.close(fd)


def _check_way(fd: int, path: str, place: str | None = None) -> None:
    """Check all directories above an open file.

    :param path: the tree, for the error.
    :param place: where another mount shows it.
    """
    parents = list(_parents(fd, path))
    closed = False
    for parent, status in parents:
        if closed or _is_closed(status):
            closed = True
            _check_kept(path, parent, status)
    if not closed:
        raise ReachableError(path, _describe(place, *parents[0]))


def _is_closed(status: os.stat_result) -> bool:
    # Users and groups of an ACL count too: its mask shows as the group's
    # permissions.
    return status.st_uid == 0 and not status.st_mode & _OTHERS


def _check_kept(path: str, parent: str, status: os.stat_result) -> None:
    if status.st_uid != 0:
        raise ReachableError(
            path,
            f"its parent {parent} belongs to user {status.st_uid}, who could "
            f"replace it; chown root {parent}, or move it elsewhere",
        )
    # In a sticky directory nobody moves what is root's.
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise ReachableError(
            path,
            f"other users may write to its parent {parent}, and could "
            f"replace it; chmod go-w {parent}, or move it elsewhere",
        )


def _describe(place: str | None, parent: str, status: os.stat_result) -> str:
    at = f" at {place}" if place else ""
    return (
        f"users of the host can reach it{at}, and could run what the "
        "container makes set-user-ID root in it; "
        + ", or ".join(_fixes(place, parent, status))
    )


def _fixes(
    place: str | None, parent: str, status: os.stat_result
) -> Iterator[str]:
    is_shared = (
        len(PurePath(parent).parts) <= _FEW
        or parent in _SHARED
        or status.st_mode & stat.S_ISVTX
    )
    if place:
        yield "unmount it there"
    if not is_shared:
        owner = f"chown root {parent} and " if status.st_uid else ""
        yield f"{owner}chmod 0700 {parent}"
    if not place:
        yield "move it into a directory of mode 0700"


def _parents(fd: int, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of all directories above, from the nearest."""
    child = _open_parent(fd, path)
    try:
        while True:
            yield _link(child), os.fstat(child)
            parent = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=child)
            is_top = _is_same(child, parent)
            os.close(child)
            child = parent
            if is_top:
                return
    finally:
        os.close(child)


def _open_parent(fd: int, path: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        return os.open("..", flags, dir_fd=fd)
    # A file does not know its directory, but the kernel knows by which name
    # it was opened.
    directory, name = os.path.split(_link(fd))
    parent = os.open(directory, flags)
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if os.path.samestat(found, os.fstat(fd)):
            return parent
    except FileNotFoundError:
        pass
    os.close(parent)
    raise ReachableError(path, "was renamed or removed just now; try again")


def _is_same(one: int, other: int) -> bool:
    return os.path.samestat(
        os.fstat(one), os.fstat(other)
    ) and mounts.mount_id(one) == mounts.mount_id(other)


def _other_places(fd: int) -> Iterator[tuple[mounts.Mount, str]]:
    """Where other mounts show a file or directory, or something in it."""
    known = list(mounts.read_mounts())
    number = mounts.mount_id(fd)
    own = next((each for each in known if each.number == number), None)
    if own is None:
        return
    tree = PurePath(own.root, os.path.relpath(_link(fd), own.point))
    for each in known:
        if each.number == number or each.device != own.device:
            continue
        if _is_harmless(each):
            continue
        if tree.is_relative_to(each.root):
            yield each, str(PurePath(each.point, tree.relative_to(each.root)))
        elif PurePath(each.root).is_relative_to(tree):
            yield each, each.point


def _is_harmless(mount: mounts.Mount) -> bool:
    return not _HARMLESS.isdisjoint(mount.options)


def _is_of_device(mount: mounts.Mount, device: int) -> bool:
    # The number of a mount is not its device's for btrfs.
    if not mount.source.startswith("/dev/"):
        return False
    with suppress(OSError):
        return os.stat(mount.source).st_rdev == device
    return False


def _link(fd: int) -> str:
    """The path of an open file, as the kernel knows it now."""
    return os.readlink(f"/proc/self/fd/{fd}")
