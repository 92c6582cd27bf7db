# SPDX-License-Identifier: Apache-2.0
"""One inode with more to it than an owner: plan what changes, then do it.

A chown clears set-user-ID and set-group-ID bits and file capabilities
(:manpage:`chown(2)`), and is refused for immutable and append-only inodes.
What it would destroy is written to an attribute of the inode itself before,
and taken away after, so that a kill at any moment loses nothing. For an
immutable inode, which takes no attribute, the root directory keeps the note.

Inodes are named by an ``O_PATH`` descriptor and reached as
``/proc/self/fd/N``: that opens nothing (no device, no pipe) and cannot be led
elsewhere by a rename.
"""

from __future__ import annotations

import os
import stat

from lxc_userns.linux import inode_flags
from lxc_userns.rootfs import acl, capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxc_userns.rootfs.owners import Owners

#: Mode and capability to restore; on inodes whose chown is under way.
PENDING = "trusted.lxc_userns.pending"
#: Prefix, with an inode number, of notes on the root directory.
FLAGGED = "trusted.lxc_userns.flagged."

_READ = (acl.ACCESS, acl.DEFAULT, capability.NAME, PENDING)
_SET_ID = stat.S_ISUID | stat.S_ISGID
_FLAGS = inode_flags.FS_IMMUTABLE_FL | inode_flags.FS_APPEND_FL


class Change:
    """What one inode needs; all of it optional.

    :param owner: new (user ID, group ID).
    :param acls: new ACL attributes, by name.
    :param mode: permission bits to restore after the chown.
    :param capability: file capabilities to set after the chown.
    :param journal: whether the two above are noted on the inode before.
    :param pending: whether such a note is there already.
    """

    __slots__ = ("acls", "capability", "journal", "mode", "owner", "pending")

    def __init__(
        self,
        owner: tuple[int, int] | None,
        acls: Mapping[str, bytes],
        mode: int | None,
        capability: bytes | None,
        journal: bool,
        pending: bool,
    ) -> None:
        self.owner = owner
        self.acls = acls
        self.mode = mode
        self.capability = capability
        self.journal = journal
        self.pending = pending

    def __bool__(self) -> bool:
        return bool(self.owner or self.acls or self.capability or self.pending)


def plan(
    st: os.stat_result, xattrs: Mapping[str, bytes], owners: Owners
) -> Change:
    """What an inode needs; no system call.

    :param st: its status.
    :param xattrs: those of its extended attributes that matter here.
    :param owners: the translation.
    """
    owner = owners[st.st_uid, st.st_gid]
    uid, gid = owners.uids.qualifier, owners.gids.qualifier
    acls = {}
    for name in (acl.ACCESS, acl.DEFAULT):
        if name in xattrs:
            value = acl.translate(xattrs[name], uid, gid)
            if value != xattrs[name]:
                acls[name] = value
    mode, caps = _decode_pending(xattrs.get(PENDING))
    if mode is None and st.st_mode & _SET_ID and not stat.S_ISDIR(st.st_mode):
        mode = stat.S_IMODE(st.st_mode)
    current = xattrs.get(capability.NAME)
    if caps is None:
        caps = current
    if caps is not None:
        caps = capability.translate(caps, uid)
    pending = PENDING in xattrs
    if not owner.moves and not pending:
        mode = None
        caps = caps if caps != current else None
    return Change(
        (owner.uid, owner.gid) if owner.moves else None,
        acls,
        mode,
        caps,
        journal=owner.moves and not (mode is None and caps is None),
        pending=pending,
    )


def apply(path: str, change: Change) -> None:
    """Make a planned change.

    :param path: ``/proc/self/fd/N``.
    :raises OSError: as the kernel says; EPERM for an immutable inode, which
        is then unchanged.
    """
    for name, value in change.acls.items():
        os.setxattr(path, name, value)
    if change.journal:
        os.setxattr(
            path, PENDING, _encode_pending(change.mode, change.capability)
        )
    if change.owner is not None:
        os.chown(path, *change.owner)
    if change.mode is not None:
        os.chmod(path, change.mode)
    if change.capability is not None:
        os.setxattr(path, capability.NAME, change.capability)
    if change.journal or change.pending:
        os.removexattr(path, PENDING)


class Flagged:
    """Inodes whose immutable or append-only flag is off for the moment.

    :param root: a descriptor of the root directory, which keeps the notes.
    :param left: notes that an interrupted run has left, by inode number.
    """

    def __init__(self, root: int, left: Mapping[int, bytes]) -> None:
        self._root = root
        self.left = dict(left)

    def apply(self, path: str, st: os.stat_result, change: Change) -> None:
        """Make a planned change, around the inode's flags if need be.

        :raises OSError: as the kernel says.
        """
        flags = self._take_left(st)
        try:
            if flags is None:
                apply(path, change)
                return
        except PermissionError:
            flags = _get_flags(path, st)
            if not flags & _FLAGS:
                raise
        note = f"{FLAGGED}{st.st_ino}"
        os.setxattr(self._root, note, _encode_flags(flags, st))
        _set_flags(path, flags & ~_FLAGS)
        try:
            apply(path, change)
        finally:
            _set_flags(path, flags)
        os.removexattr(self._root, note)

    def _take_left(self, st: os.stat_result) -> int | None:
        note = self.left.pop(st.st_ino, None)
        if note is None:
            return None
        flags, same = _decode_flags(note, st)
        return flags if same else None


def read_left(root: int) -> dict[int, bytes]:
    """The notes that an interrupted run has left on the root directory."""
    names = [n for n in os.listxattr(root) if n.startswith(FLAGGED)]
    return {
        int(name.removeprefix(FLAGGED)): os.getxattr(root, name)
        for name in names
        if name.removeprefix(FLAGGED).isdecimal()
    }


def read_xattrs(path: str) -> dict[str, bytes]:
    """The extended attributes that :func:`plan` wants.

    :param path: ``/proc/self/fd/N``.
    """
    there = os.listxattr(path)
    return {name: os.getxattr(path, name) for name in _READ if name in there}


def _encode_pending(mode: int | None, caps: bytes | None) -> bytes:
    octal = "-" if mode is None else f"{mode:o}"
    return f"{octal} {'-' if caps is None else caps.hex()}".encode()


def _decode_pending(value: bytes | None) -> tuple[int | None, bytes | None]:
    if value is None:
        return None, None
    octal, caps = value.decode("ascii").split(" ")
    return (
        None if octal == "-" else int(octal, 8) & 0o7777,
        None if caps == "-" else bytes.fromhex(caps),
    )


# The modification time and the size tell whether an inode number found again
# after a crash is still the same file.
def _encode_flags(flags: int, st: os.stat_result) -> bytes:
    return f"{flags:x} {st.st_mtime_ns} {st.st_size}".encode()


def _decode_flags(value: bytes, st: os.stat_result) -> tuple[int, bool]:
    flags, mtime, size = value.decode("ascii").split(" ")
    return int(flags, 16), (int(mtime), int(size)) == (
        st.st_mtime_ns,
        st.st_size,
    )


def _open_for_flags(path: str, st: os.stat_result) -> int:
    # The flags need a real descriptor. Only a regular file or directory is
    # opened, through a descriptor that has shown it to be one: opening
    # anything else could block or wake a device.
    if not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
        raise PermissionError(1, "a special file refuses the change", path)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _get_flags(path: str, st: os.stat_result) -> int:
    fd = _open_for_flags(path, st)
    try:
        return inode_flags.get(fd)
    except OSError:
        return 0  # A filesystem without flags; they are not the reason.
    finally:
        os.close(fd)


def _set_flags(path: str, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        inode_flags.set(fd, flags)
    finally:
        os.close(fd)
