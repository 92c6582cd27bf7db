# SPDX-License-Identifier: Apache-2.0
"""Exposure of a tree to users of the host.

The owners of an idmapped tree are not shifted on disk: what the container's
root makes set-user-ID there is set-user-ID root for whoever can execute it on
the host (CVE-2025-64507). So one of the directories above it has to be closed
to everybody but root, and none from there up may be anybody else's to
replace. The tree's own directory does not count: the container's root can
change its mode.

All of that has to hold on every way to the tree: what another mount shows of
it counts too. Not so an idmapped one, on which root on disk is not root, nor
one with ``nosuid``.

And none of them may be inside already: a process that had the tree, or a
directory on the way, open before it was closed keeps it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

from lxc_userns.exceptions import ExposedTreeError
from lxc_userns.linux import fuser, mounts
from lxc_userns.linux.fd import closed_on_error, owned
from lxc_userns.linux.fuser import Closed, Place

#: Trees, by path, in which no one was found since the directories above them
#: were closed.
Empty = MutableMapping[str, Closed]
_Known = Mapping[int, mounts.Mount]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: Nanoseconds in which a time of change does not tell one change from two.
_RESOLUTION = 10**9
#: Where a directory is not one tree's alone, whose mode could be changed for
#: it: with so few components, or here.
_FEW = 2
_SHARED = ("/var/lib", "/usr/local")


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to a tree that only root can go.

    :param closed: the nearest directory on it that only root may enter.
    :param places: that one and all below it.
    """

    closed: os.stat_result
    places: tuple[Place, ...]


def check_only_root_can_reach(
    fd: int, path: str, empty: Empty | None = None
) -> None:
    """Check that only root can reach a file or directory, or has it open.

    :param fd: descriptor of it; its parents are found from there, whatever
        becomes of the path meanwhile.
    :param path: the same as the caller knows it.
    :param empty: what was found before, and is kept there: processes are not
        looked at again while the closed directories have not changed.
    :raises ExposedTreeError: if others can, with what to do.
    """
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        raise ExposedTreeError(
            path,
            f"the file has {status.st_nlink} names (hard links), and users "
            "of the host may reach it by another; make a copy of its own",
        )
    known = {each.number: each for each in mounts.read_mounts()}
    ways = []
    own = known.get(mounts.mount_id(fd))
    if own is None or not own.ignores_set_id:
        ways.append(_check_way(fd, path, known))
    for mount, place in _other_places(fd, known):
        ways += _check_place(mount, place, path, known)
    if own is not None:
        _check_empty(_place(fd, known), fd, path, ways, empty)


def check_device_not_exposed(fd: int, path: str) -> None:
    """Check that only root can reach what is on a block device.

    :param fd: descriptor of the device.
    :param path: the same as the caller knows it.
    :raises ExposedTreeError: if it is mounted where others can.
    """
    device = os.fstat(fd).st_rdev
    known = {each.number: each for each in mounts.read_mounts()}
    for mount in known.values():
        if not mount.ignores_set_id and _is_of_device(mount, device):
            ways = _check_place(mount, mount.point, path, known)
            place = Place(mount.device, PurePosixPath(mount.root))
            _check_empty(place, fd, path, ways, None)


def _check_place(
    mount: mounts.Mount, place: str, path: str, known: _Known
) -> list[_Way]:
    try:
        fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []  # Another mount hides it.
    with owned(fd):
        if mounts.mount_id(fd) == mount.number:
            return [_check_way(fd, path, known, place)]
    return []


def _check_way(
    fd: int, path: str, known: _Known, place: str | None = None
) -> _Way:
    """Check all directories above an open file.

    :param path: the tree, for the error.
    :param known: the mounts of this process, by number.
    :param place: where another mount shows it.
    """
    parents = list(_parents(fd, path, known))
    closed = None
    below = []
    for parent, status, where in parents:
        if closed is None:
            below.append(where)
            closed = status if _is_closed(status) else None
        if closed is not None:
            _check_kept(path, parent, status)
    if closed is None:
        raise ExposedTreeError(path, _describe(place, *parents[0][:2]))
    return _Way(closed, tuple(each for each in below if each is not None))


def _check_empty(
    place: Place | None,
    fd: int,
    path: str,
    ways: list[_Way],
    empty: Empty | None,
) -> None:
    """Check that no process has a tree, or a directory on the way, open."""
    closed = tuple(
        (way.closed.st_dev, way.closed.st_ino, way.closed.st_ctime_ns)
        for way in ways
    )
    if empty is not None and empty.get(path) == closed:
        return
    if place is None:
        raise ExposedTreeError(
            path, "was renamed or removed just now; try again"
        )
    now = time.time_ns()
    below = frozenset(each for way in ways for each in way.places)
    tree = fuser.Tree(place, os.fstat(fd).st_dev, below)
    try:
        user = fuser.find_user(tree)
    except OSError as err:
        reason = f"cannot tell who has it open: {err.strerror or err}"
        raise ExposedTreeError(path, reason) from err
    if user is not None:
        raise ExposedTreeError(
            path,
            f"process {user.pid} ({user.name}) of user {user.uid} has it, or "
            f"a directory on the way to it, open: {user.how}; end that "
            "process, for it could run what the container makes set-user-ID "
            "root",
        )
    if empty is not None:
        empty.pop(path, None)
        if all(now - changed > _RESOLUTION for _, _, changed in closed):
            empty[path] = closed


def _is_closed(status: os.stat_result) -> bool:
    # Users and groups of an ACL count too: its mask shows as the group's
    # permissions.
    return status.st_uid == 0 and not status.st_mode & _OTHERS


def _check_kept(path: str, parent: str, status: os.stat_result) -> None:
    if status.st_uid != 0:
        raise ExposedTreeError(
            path,
            f"its parent {parent} belongs to user {status.st_uid}, who could "
            f"replace it; chown root {parent}, or move it elsewhere",
        )
    # In a sticky directory no one moves what is root's.
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise ExposedTreeError(
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


def _parents(
    fd: int, path: str, known: _Known
) -> Iterator[tuple[str, os.stat_result, Place | None]]:
    """Path, status and place of all directories above, from the nearest."""
    child = _open_parent(fd, path)
    try:
        while True:
            yield _link(child), os.fstat(child), _place(child, known)
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
    with closed_on_error(parent):
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(fd)):
                return parent
        raise ExposedTreeError(
            path, "was renamed or removed just now; try again"
        )


def _is_same(one: int, other: int) -> bool:
    return os.path.samestat(
        os.fstat(one), os.fstat(other)
    ) and mounts.mount_id(one) == mounts.mount_id(other)


def _other_places(
    fd: int, known: _Known
) -> Iterator[tuple[mounts.Mount, str]]:
    """Yield where other mounts show a file or directory, or a part."""
    number = mounts.mount_id(fd)
    own = known.get(number)
    if own is None:
        return
    tree = PurePath(own.root, os.path.relpath(_link(fd), own.point))
    for each in known.values():
        if each.number == number or each.device != own.device:
            continue
        if each.ignores_set_id:
            continue
        if tree.is_relative_to(each.root):
            yield each, str(PurePath(each.point, tree.relative_to(each.root)))
        elif PurePath(each.root).is_relative_to(tree):
            yield each, each.point


def _place(fd: int, known: _Known) -> Place | None:
    mount = known.get(mounts.mount_id(fd))
    return None if mount is None else fuser.place_of(_link(fd), mount)


def _is_of_device(mount: mounts.Mount, device: int) -> bool:
    # The number of a mount is not its device's for btrfs.
    if not mount.source.startswith("/dev/"):
        return False
    with suppress(OSError):
        return os.stat(mount.source).st_rdev == device
    return False


def _link(fd: int) -> str:
    """Return the path of an open file, as the kernel knows it now."""
    return os.readlink(f"/proc/self/fd/{fd}")
