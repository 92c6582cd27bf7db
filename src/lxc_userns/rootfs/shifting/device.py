# SPDX-License-Identifier: Apache-2.0
"""Device nodes of a tree: they are the host's, and stay with its root.

A device node leads to the same disk wherever it is. If it belonged to IDs of
the container, or were open to all, whoever can reach the tree on a mount
without ``nodev`` could read that disk. No container loses anything: its view
is ``nodev``. So a shift *seals* a device node, to be root's and no one else's
to open, and notes on it what it was before; an unshift gives that back.

As the note says all that matters, the owner of a device node does not tell
how far a shift has come, and what is here may be done any number of times.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    #: Segments of the steps that lead from an owner found on disk to the one
    #: in the image, for user and for group IDs, as plain numbers; and whether
    #: device nodes are sealed.
    PlainSteps: TypeAlias = Sequence[Sequence[tuple[int, int, int]]]
    PlainDevices: TypeAlias = tuple[PlainSteps, PlainSteps, bool]

#: Owner and mode that an unshift gives back; on device nodes that are sealed.
NOTE = "trusted.lxc_userns.device"

_KINDS = (stat.S_IFCHR, stat.S_IFBLK)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SEALED = stat.S_IRWXU
_LAST_ID = 2**32 - 2


class Change:
    """Change of a device node.

    :param owner: new user and group ID.
    :param mode: new permission bits.
    :param note: what to note on it before.
    :param forgets: whether the note is removed in the end.
    :param lost: whether a note is there that says nothing.
    """

    __slots__ = ("forgets", "lost", "mode", "note", "owner")

    def __init__(
        self,
        owner: tuple[int, int],
        mode: int,
        note: bytes | None,
        forgets: bool,
        lost: bool,
    ) -> None:
        self.owner = owner
        self.mode = mode
        self.note = note
        self.forgets = forgets
        self.lost = lost


def is_device(st: os.stat_result) -> bool:
    """Return whether an inode is a device node that could be opened.

    The number 0:0 is no device's; a node of it is what overlayfs leaves where
    a file was removed.
    """
    kind = stat.S_IFMT(st.st_mode)
    return kind in _KINDS and (kind, st.st_rdev) != (stat.S_IFCHR, 0)


def read_note(path: str) -> bytes | None:
    """Return the note on a device node, None if there is none.

    :param path: ``/proc/self/fd/N``.
    """
    try:
        return os.getxattr(path, NOTE)
    except OSError as err:
        if err.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def plan(
    st: os.stat_result, note: bytes | None, devices: PlainDevices
) -> Change | None:
    """Plan the change of a device node; no system call.

    :param note: what :func:`read_note` has found.
    :param devices: what the pass does to device nodes.
    """
    uid_steps, gid_steps, seals = devices
    now = st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)
    before = _follow(now[0], uid_steps), _follow(now[1], gid_steps), now[2]
    noted = None if note is None else _decode(note)
    lost = note is not None and noted is None
    if seals:
        if now[:2] == (0, 0) and not now[2] & _OTHERS:
            return None
        made = _encode(*before) if noted is None else None
        return Change((0, 0), now[2] & _SEALED, made, False, lost)
    if noted is not None:
        return Change(noted[:2], noted[2], None, True, lost)
    if before == now:
        # If it was sealed, it stays root's alone.
        return Change(now[:2], now[2], None, True, lost) if lost else None
    # An older version has shifted it. The note, for a chown takes bits of the
    # mode away.
    return Change(before[:2], before[2], _encode(*before), True, lost)


def apply(path: str, change: Change) -> None:
    """Make a planned change.

    :param path: ``/proc/self/fd/N``.
    :raises OSError: as the kernel says.
    """
    if change.note is not None:
        os.setxattr(path, NOTE, change.note)
    if change.forgets:
        # Never open to more than it is in the end.
        os.chown(path, *change.owner)
        os.chmod(path, change.mode)
        os.removexattr(path, NOTE)
    else:
        os.chmod(path, change.mode)
        os.chown(path, *change.owner)


def _follow(number: int, steps: PlainSteps) -> int:
    for segments in steps:
        for source, target, count in segments:
            if source <= number < source + count:
                number = target + number - source
                break
    return number


def _encode(uid: int, gid: int, mode: int) -> bytes:
    return f"{uid} {gid} {mode:o}".encode()


def _decode(note: bytes) -> tuple[int, int, int] | None:
    """Read a note; None if it is none of ours, as an image may bring one."""
    try:
        uid, gid, mode = note.decode("ascii").split(" ")
        found = int(uid), int(gid), int(mode, 8)
    except ValueError:
        return None
    ids_are_good = all(0 <= each <= _LAST_ID for each in found[:2])
    return found if ids_are_good and 0 <= found[2] <= 0o7777 else None
