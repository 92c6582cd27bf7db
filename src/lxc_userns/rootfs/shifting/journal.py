# SPDX-License-Identifier: Apache-2.0
"""Journal of inodes that take no note themselves, on the root directory.

An immutable or append-only inode takes no attribute, and one whose space for
attributes is full takes no more. What a change of owner would destroy of
them, and the flags that are off meanwhile, is noted in an attribute of the
root directory of the tree.

Notes have fixed names, for the attributes of the root directory may be more
than can be listed. Only one is written at a time, for it may have little room.
"""

from __future__ import annotations

import errno
import os
import stat

from lxc_userns.linux import inode_flags
from lxc_userns.linux.fd import open_file
from lxc_userns.rootfs.shifting import inode, ipc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    #: Notes that a run before has left: inode number, names and values.
    Left: TypeAlias = Mapping[int, Sequence[tuple[str, bytes]]]

#: Prefix of the names of notes; a number from 0 follows.
JOURNAL = "trusted.lxc_userns.journal."
#: Notes that there can be. Each kill leaves one at most.
MOST_NOTES = 256

_FLAGS = inode_flags.FS_IMMUTABLE_FL | inode_flags.FS_APPEND_FL
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
#: Bytes of the longest note: numbers of 64 bits, flags, mode, capabilities;
#: its name, and what a filesystem has beside.
ROOM = 3 * 21 + 9 + 5 + 48 + 64
#: Most digits of an inode number.
_DIGITS = 20


class NoRoomYetError(OSError):
    """Notes are in the way of one that a run before has left."""


class Journal:
    """The notes on inodes that take none themselves.

    :param root: a descriptor of the root directory, which keeps them.
    :param left: those that an interrupted run has left.
    :param shared_flags: keeps one worker from what another one is at.
    """

    def __init__(
        self, root: int, left: Left, shared_flags: ipc.SharedFlags
    ) -> None:
        self._root = root
        self._shared_flags = shared_flags
        self.left = left
        self._kept = {name for notes in left.values() for name, _ in notes}

    def pending(self, st: os.stat_result) -> bytes | None:
        """Return what is noted of an inode, as :data:`inode.JOURNAL`."""
        note = self._find(st)
        return None if note is None else note[2]

    def apply(
        self, path: str, st: os.stat_result, change: inode.Change
    ) -> None:
        """Make a planned change, with a note here if the inode takes none.

        :param path: ``/proc/self/fd/N``.
        :raises NoRoomYetError: if there will be room once the inodes of the
            notes left have been met; this one is to be met again then.
        :raises OSError: as the kernel says.
        """
        name, flags, _ = self._find(st) or (None, 0, b"")
        try:
            if not flags:
                inode.apply(path, change)
                if name is not None:
                    _remove(self._root, name)
                return
        except PermissionError:
            flags = _get_flags(path, st) & _FLAGS
            if not flags:
                raise
        except OSError as err:
            if err.errno not in _FULL:
                raise
        self._shared_flags.lock(ipc.JOURNAL)
        try:
            name = self._write(name, _encode(st, flags, change))
            _apply_without(flags, path, st, change)
            # If that failed, the note is there for who comes next.
            _remove(self._root, name)
        finally:
            self._shared_flags.unlock(ipc.JOURNAL)

    def _write(self, name: str | None, value: bytes) -> str:
        """Write a note, over that of the name if it has one."""
        if name is None:
            return self._add(value)
        os.setxattr(self._root, name, value)
        return name

    def _add(self, value: bytes) -> str:
        names = map(_name, range(MOST_NOTES))
        try:
            for name in (name for name in names if name not in self._kept):
                if self._create(name, value):
                    return name
        except OSError as err:
            if err.errno not in _FULL or not self.left:
                raise
        raise NoRoomYetError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _create(self, name: str, value: bytes) -> bool:
        try:
            os.setxattr(self._root, name, value, os.XATTR_CREATE)
        except FileExistsError:
            return False
        return True

    def _find(self, st: os.stat_result) -> tuple[str, int, bytes] | None:
        """Return name, flags and rest of the note on an inode."""
        for name, value in self.left.get(st.st_ino, ()):
            flags, pending = _decode(value, st) or (0, b"")
            if pending:
                return name, flags if _can_have_flags(st) else 0, pending
        return None


def read_notes(root: int) -> dict[int, list[tuple[str, bytes]]]:
    """Return the notes that an interrupted run has left, by inode number.

    :param root: descriptor of the root directory.
    """
    left: dict[int, list[tuple[str, bytes]]] = {}
    for name in _names(root):
        value = _read(root, name)
        number = value.partition(b" ")[0]
        if number.isdigit() and len(number) <= _DIGITS:
            left.setdefault(int(number), []).append((name, value))
    return left


def forget(root: int) -> None:
    """Remove all notes: what is left is on inodes that are not there."""
    for name in _names(root):
        _remove(root, name)


def _name(number: int) -> str:
    return f"{JOURNAL}{number}"


def _names(root: int) -> list[str]:
    try:
        there = os.listxattr(root)
    except OSError as err:
        if err.errno != errno.E2BIG:
            raise
        return [*map(_name, range(MOST_NOTES))]
    return [name for name in there if name.startswith(JOURNAL)]


def _read(root: int, name: str) -> bytes:
    """Return a note, empty if it is not there."""
    try:
        return os.getxattr(root, name)
    except OSError as err:
        if err.errno != errno.ENODATA:
            raise
        return b""


def _remove(root: int, name: str) -> None:
    try:
        os.removexattr(root, name)
    except OSError as err:
        if err.errno != errno.ENODATA:
            raise


# The modification time and the size tell whether an inode number found again
# after a crash is still the same file. Each btrfs subvolume counts its inodes
# from the start, and may be another device then.
def _encode(st: os.stat_result, flags: int, change: inode.Change) -> bytes:
    pending = inode.encode_journal(change.mode, change.capability)
    head = f"{st.st_ino} {st.st_mtime_ns} {st.st_size} {flags:x} "
    return head.encode() + pending


def _decode(value: bytes, st: os.stat_result) -> tuple[int, bytes] | None:
    """Return flags and rest; None if it is on another file, or malformed."""
    try:
        _, mtime, size, flags, pending = value.split(b" ", 4)
        found = int(mtime), int(size)
        off = int(flags, 16) & _FLAGS
    except ValueError:
        return None
    is_it = found == (st.st_mtime_ns, st.st_size)
    return (off, pending) if is_it and inode.decode_journal(pending) else None


def _apply_without(
    flags: int, path: str, st: os.stat_result, change: inode.Change
) -> None:
    """Make a planned change while flags of the inode are off."""
    if not flags:
        inode.apply(path, change, noted=True)
        return
    others = _get_flags(path, st) & ~_FLAGS
    _set_flags(path, others)
    try:
        inode.apply(path, change, noted=True)
    finally:
        _set_flags(path, others | flags)


def _can_have_flags(st: os.stat_result) -> bool:
    # The flags need a real descriptor. Only a regular file or directory is
    # opened, through a descriptor that has shown it to be one: opening
    # anything else could block or wake a device.
    return stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)


def _get_flags(path: str, st: os.stat_result) -> int:
    if not _can_have_flags(st):
        return 0
    with open_file(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        try:
            return inode_flags.get(fd)
        except OSError:
            return 0  # A filesystem without flags; they are not the reason.


def _set_flags(path: str, flags: int) -> None:
    with open_file(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        inode_flags.set(fd, flags)
