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

import errno
import os
import stat

from lxc_userns.linux import inode_flags
from lxc_userns.rootfs import acl, capability, kept_capability
from lxc_userns.rootfs.kept_capability import KEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lxc_userns.rootfs.owners import Owners

#: Mode and capability to restore; on inodes whose chown is under way.
PENDING = "trusted.lxc_userns.pending"
#: Prefix, with inode and device number, of notes on the root directory.
FLAGGED = "trusted.lxc_userns.flagged."

_READ = (acl.ACCESS, acl.DEFAULT, capability.NAME, PENDING, KEPT)
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
    :param kept: file capabilities to note before, as they lead nowhere.
    :param drops: whether no file capabilities are left.
    :param forgets: whether the note of such is removed in the end.
    :param mapped: whether the maps cover owner and all other IDs.
    """

    __slots__ = (
        "acls",
        "capability",
        "drops",
        "forgets",
        "journal",
        "kept",
        "mapped",
        "mode",
        "owner",
        "pending",
    )

    def __init__(
        self,
        owner: tuple[int, int] | None,
        acls: Mapping[str, bytes],
        mode: int | None,
        capability: bytes | None,
        journal: bool,
        pending: bool,
        kept: bytes | None,
        drops: bool,
        forgets: bool,
        mapped: bool,
    ) -> None:
        self.owner = owner
        self.acls = acls
        self.mode = mode
        self.capability = capability
        self.journal = journal
        self.pending = pending
        self.kept = kept
        self.drops = drops
        self.forgets = forgets
        self.mapped = mapped

    def __bool__(self) -> bool:
        return bool(
            self.owner
            or self.acls
            or self.capability
            or self.pending
            or self.drops
            or self.forgets
        )


def plan(
    st: os.stat_result,
    xattrs: Mapping[str, bytes],
    owners: Owners,
    *,
    to_host: bool,
) -> Change:
    """What an inode needs; no system call.

    :param st: its status.
    :param xattrs: those of its extended attributes that matter here.
    :param owners: the translation.
    :param to_host: whether that leads to host IDs, or to a range on the way.
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
    planned = _plan_capability(
        caps, current, xattrs.get(KEPT), st, owners, to_host
    )
    caps = planned.value
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
        kept=planned.note,
        drops=planned.drops,
        forgets=planned.forgets,
        mapped=owner.mapped & _are_mapped(st, xattrs, owners, to_host),
    )


def _plan_capability(
    noted: bytes | None,
    current: bytes | None,
    kept: bytes | None,
    st: os.stat_result,
    owners: Owners,
    to_host: bool,
) -> kept_capability.Plan:
    uids = owners.uids
    if not to_host:
        found = current if noted is None else noted
        return kept_capability.unshift(found, kept, st.st_uid, uids)
    if noted is not None:
        # It was translated when it was noted.
        return kept_capability.Plan(
            capability.translate(noted, uids.qualifier)
        )
    return kept_capability.shift(current, kept, st.st_uid, uids)


def _are_mapped(
    st: os.stat_result,
    xattrs: Mapping[str, bytes],
    owners: Owners,
    to_host: bool,
) -> bool:
    """Whether the maps cover IDs in ACLs and capabilities; notes others."""
    uids, gids = owners.uids, owners.gids
    found = True
    for name in (acl.ACCESS, acl.DEFAULT):
        users, groups = acl.qualifiers(xattrs.get(name, b""))
        for number in users:
            found &= uids.is_mapped(number)
        for number in groups:
            found &= gids.is_mapped(number)
    value = xattrs.get(capability.NAME, b"")
    root = capability.root_id(value)
    if root is not None:
        found &= uids.is_mapped(root)
        if (
            to_host
            and PENDING not in xattrs
            and kept_capability.is_foreign(value, st.st_uid, uids)
        ):
            uids.note_unmapped(root)
            found = False
    return found


def apply(path: str, change: Change) -> None:
    """Make a planned change.

    :param path: ``/proc/self/fd/N``.
    :raises OSError: as the kernel says; EPERM for an immutable inode, which
        is then unchanged.
    """
    for name, value in change.acls.items():
        os.setxattr(path, name, value)
    if change.kept is not None:
        os.setxattr(path, KEPT, change.kept)
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
    elif change.drops:
        _remove(path, capability.NAME)  # A change of owner has, mostly.
    if change.journal or change.pending:
        os.removexattr(path, PENDING)
    if change.forgets:
        _remove(path, KEPT)


def _remove(path: str, name: str) -> None:
    try:
        os.removexattr(path, name)
    except OSError as err:
        if err.errno != errno.ENODATA:
            raise


class Flagged:
    """Inodes whose immutable or append-only flag is off for the moment.

    :param root: a descriptor of the root directory, which keeps the notes.
    :param left: notes that an interrupted run has left, by inode number.
    """

    def __init__(self, root: int, left: Mapping[int, Sequence[bytes]]) -> None:
        self._root = root
        self.left = left

    def apply(self, path: str, st: os.stat_result, change: Change) -> None:
        """Make a planned change, around the inode's flags if need be.

        :raises OSError: as the kernel says.
        """
        flags = self._flags_left(st)
        try:
            if not flags:
                apply(path, change)
                return
        except PermissionError:
            flags = _get_flags(path, st) & _FLAGS
            if not flags:
                raise
        others = _get_flags(path, st) & ~_FLAGS
        # Each btrfs subvolume counts its inodes from the start, and is a
        # device of its own; after a crash it may be another device.
        note = f"{FLAGGED}{st.st_ino}.{st.st_dev}"
        os.setxattr(self._root, note, _encode_flags(flags, st))
        _set_flags(path, others)
        try:
            apply(path, change)
        finally:
            _set_flags(path, others | flags)
        os.removexattr(self._root, note)

    def _flags_left(self, st: os.stat_result) -> int:
        if not _can_have_flags(st):
            return 0
        for note in self.left.get(st.st_ino, ()):
            flags = _decode_flags(note, st)
            if flags:
                return flags
        return 0


def read_left(root: int) -> dict[int, list[bytes]]:
    """The notes that an interrupted run has left on the root directory."""
    left: dict[int, list[bytes]] = {}
    for name in os.listxattr(root):
        number = name.removeprefix(FLAGGED).partition(".")[0]
        if name.startswith(FLAGGED) and number.isdecimal():
            left.setdefault(int(number), []).append(os.getxattr(root, name))
    return left


def forget_left(root: int) -> None:
    """Remove these notes: the rest is on inodes that are no longer there."""
    for name in os.listxattr(root):
        if name.startswith(FLAGGED):
            os.removexattr(root, name)


def read_xattrs(path: str) -> dict[str, bytes]:
    """The extended attributes that :func:`plan` wants.

    :param path: ``/proc/self/fd/N``.
    """
    try:
        there = os.listxattr(path)
    except OSError as err:
        # XFS and btrfs let a list grow beyond what the kernel hands out.
        if err.errno != errno.E2BIG:
            raise
        there = list(_READ)
    found = {}
    for name in _READ:
        if name in there:
            try:
                found[name] = os.getxattr(path, name)
            except OSError as err:
                if err.errno != errno.ENODATA:
                    raise
    return found


def _encode_pending(mode: int | None, caps: bytes | None) -> bytes:
    octal = "-" if mode is None else f"{mode:o}"
    return f"{octal} {'-' if caps is None else caps.hex()}".encode()


def _decode_pending(value: bytes | None) -> tuple[int | None, bytes | None]:
    if value is None:
        return None, None
    try:
        octal, caps = value.decode("ascii").split(" ")
        return (
            None if octal == "-" else int(octal, 8) & 0o7777,
            None if caps == "-" else bytes.fromhex(caps),
        )
    except ValueError as err:
        # Never ours, as the kernel writes an attribute whole.
        raise OSError(
            errno.EBADMSG, f"attribute {PENDING} is malformed; remove it"
        ) from err


# The modification time and the size tell whether an inode number found again
# after a crash is still the same file.
def _encode_flags(flags: int, st: os.stat_result) -> bytes:
    return f"{flags:x} {st.st_mtime_ns} {st.st_size}".encode()


def _decode_flags(value: bytes, st: os.stat_result) -> int:
    """The flags of a note, 0 if it is on another file, or malformed."""
    try:
        flags, mtime, size = value.split(b" ")
        if (int(mtime), int(size)) == (st.st_mtime_ns, st.st_size):
            return int(flags, 16) & _FLAGS
    except ValueError:
        pass
    return 0


def _can_have_flags(st: os.stat_result) -> bool:
    # The flags need a real descriptor. Only a regular file or directory is
    # opened, through a descriptor that has shown it to be one: opening
    # anything else could block or wake a device.
    return stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)


def _get_flags(path: str, st: os.stat_result) -> int:
    if not _can_have_flags(st):
        return 0
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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
