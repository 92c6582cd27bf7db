# SPDX-License-Identifier: Apache-2.0
"""One inode with more to it than an owner: plan what changes, then do it.

A chown clears set-user-ID and set-group-ID bits and file capabilities
(:manpage:`chown(2)`), and is refused for immutable and append-only inodes.
What it would destroy is written to an attribute of the inode itself before,
and taken away after, so that a kill at any moment loses nothing. For an inode
that takes no attribute, :mod:`~lxc_userns.rootfs.shifting.journal` keeps the
note.

Inodes are named by an ``O_PATH`` descriptor and reached as
``/proc/self/fd/N``: that opens nothing (no device, no pipe) and cannot be led
elsewhere by a rename.
"""

from __future__ import annotations

import errno
import os
import stat

from lxc_userns.rootfs.shifting import acl, filecaps, kept_filecaps
from lxc_userns.rootfs.shifting.kept_filecaps import KEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxc_userns.rootfs.shifting.owners import Ids, Owners

#: Mode and capability to restore; on inodes whose chown is under way.
JOURNAL = "trusted.lxc_userns.pending"

#: Finding on an inode with a note, or an ACL, that cannot be read.
LOST = (
    "a note of what an interrupted shift was to give back, an ACL or "
    "capabilities cannot be read and were removed; look at owner, mode and "
    "capabilities"
)
#: Stands for an ACL, or capabilities, that the kernel hands out to no one.
UNREADABLE = b""

_READ = (acl.ACCESS, acl.DEFAULT, filecaps.NAME, JOURNAL, KEPT)
_SET_ID = stat.S_ISUID | stat.S_ISGID


class Change:
    """Change of one inode; all of it optional.

    :param owner: new (user ID, group ID).
    :param acls: new ACL attributes, by name; None for one to be removed.
    :param mode: permission bits to restore after the chown.
    :param capability: file capabilities to set after the chown.
    :param journal: whether the two above are noted on the inode before.
    :param pending: whether such a note is there already.
    :param lost: whether that one says nothing.
    :param kept: file capabilities to note before, as they lead nowhere.
    :param drops: whether no file capabilities are left.
    :param forgets: whether the note of such is removed in the end.
    :param mapped: whether the maps cover owner and all other IDs.
    :param names_mapped: whether they cover those others.
    """

    __slots__ = (
        "acls",
        "capability",
        "drops",
        "forgets",
        "journal",
        "kept",
        "lost",
        "mapped",
        "mode",
        "names_mapped",
        "owner",
        "pending",
    )

    def __init__(
        self,
        owner: tuple[int, int] | None,
        acls: Mapping[str, bytes | None],
        mode: int | None,
        capability: bytes | None,
        journal: bool,
        pending: bool,
        lost: bool,
        kept: bytes | None,
        drops: bool,
        forgets: bool,
        mapped: bool,
        names_mapped: bool,
    ) -> None:
        self.owner = owner
        self.acls = acls
        self.mode = mode
        self.capability = capability
        self.journal = journal
        self.pending = pending
        self.lost = lost
        self.kept = kept
        self.drops = drops
        self.forgets = forgets
        self.mapped = mapped
        self.names_mapped = names_mapped

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
    """Plan the change of an inode; no system call.

    :param st: its status.
    :param xattrs: those of its extended attributes that matter here.
    :param owners: the translation.
    :param to_host: whether that leads to host IDs, or to a range on the way.
    """
    owner = owners[st.st_uid, st.st_gid]
    pending = JOURNAL in xattrs
    noted = decode_journal(xattrs.get(JOURNAL, b""))
    mode, caps = noted or (None, None)
    if mode is None and st.st_mode & _SET_ID and not stat.S_ISDIR(st.st_mode):
        mode = stat.S_IMODE(st.st_mode)
    planned = _plan_capability(caps, xattrs, st.st_uid, owners.uids, to_host)
    caps = planned.value
    if not owner.moves and not pending:
        mode = None
        caps = caps if caps != xattrs.get(filecaps.NAME) else None
    # An unshift meets all notes; until then this one is in nothing's way.
    is_spoilt = not to_host and (
        KEPT in xattrs and kept_filecaps.read(xattrs[KEPT]) is None
    )
    names_mapped = _are_mapped(xattrs, owners, planned.foreign)
    acls = _plan_acls(xattrs, owners, mode)
    return Change(
        (owner.uid, owner.gid) if owner.moves else None,
        acls,
        mode,
        caps,
        journal=owner.moves and not (mode is None and caps is None),
        pending=pending,
        lost=is_spoilt
        or (pending and noted is None)
        or None in acls.values()
        or xattrs.get(filecaps.NAME) == UNREADABLE,
        kept=planned.note,
        drops=planned.drops,
        forgets=planned.forgets or is_spoilt,
        mapped=owner.mapped and names_mapped,
        names_mapped=names_mapped,
    )


def _plan_acls(
    xattrs: Mapping[str, bytes], owners: Owners, mode: int | None
) -> dict[str, bytes | None]:
    """Return the ACLs that change, None for one to be removed."""
    uid, gid = owners.uids.qualifier, owners.gids.qualifier
    acls: dict[str, bytes | None] = {}
    for name in (acl.ACCESS, acl.DEFAULT):
        value = xattrs.get(name, b"")
        new = acl.translate(value, uid, gid)
        if new != value:
            acls[name] = new
    if mode is not None and xattrs.get(acl.ACCESS) == UNREADABLE:
        # The mode cannot change with it.
        acls[acl.ACCESS] = None
    return acls


def _plan_capability(
    noted: bytes | None,
    xattrs: Mapping[str, bytes],
    uid: int,
    uids: Ids,
    to_host: bool,
) -> kept_filecaps.Plan:
    current = xattrs.get(filecaps.NAME)
    kept = kept_filecaps.read(xattrs.get(KEPT))
    if noted is None and current == UNREADABLE:
        # execve(2) may take its sets all the same, for users of the host.
        return kept_filecaps.Plan(None, drops=True)
    if noted is None:
        turn = kept_filecaps.shift if to_host else kept_filecaps.unshift
        return turn(current, kept, uid, uids)
    if noted == kept:
        # Put away, or given back: whichever was under way.
        if to_host:
            return kept_filecaps.put_away(kept)
        return kept_filecaps.Plan(kept, forgets=True)
    # It was translated when it was noted, by this pass or its reverse.
    if to_host:
        return kept_filecaps.translated(noted, kept, uid, uids)
    new = filecaps.translate(noted, uids.qualifier)
    return kept_filecaps.Plan(new, forgets=kept is not None)


def _are_mapped(
    xattrs: Mapping[str, bytes], owners: Owners, foreign: int | None
) -> bool:
    """Return whether maps cover the IDs in attributes; notes others.

    :param foreign: root ID of capabilities that are put away.
    """
    uids, gids = owners.uids, owners.gids
    found = True
    for name in (acl.ACCESS, acl.DEFAULT):
        users, groups = acl.qualifiers(xattrs.get(name, b""))
        for number in users:
            found &= uids.is_mapped(number)
        for number in groups:
            found &= gids.is_mapped(number)
    root = filecaps.root_id(xattrs.get(filecaps.NAME, b""))
    if root is not None:
        found &= uids.is_mapped(root)
    if foreign is not None:
        uids.note_unmapped(foreign)
        found = False
    return found


def apply(path: str, change: Change, *, noted: bool = False) -> None:
    """Make a planned change.

    :param path: ``/proc/self/fd/N``.
    :param noted: whether it is noted elsewhere what a chown takes away, so
        that the inode need not have room for that.
    :raises OSError: as the kernel says; EPERM for an immutable inode, which
        is then unchanged; ENOSPC or EDQUOT for one without room, for which
        it can be done again once that is noted elsewhere.
    """
    for name, value in change.acls.items():
        if value is None:
            _remove(path, name)
        else:
            os.setxattr(path, name, value)
    _note(path, change, noted)
    if change.owner is not None:
        os.chown(path, *change.owner)
    if change.mode is not None:
        os.chmod(path, change.mode)
    if change.capability is not None:
        os.setxattr(path, filecaps.NAME, change.capability)
    elif change.drops:
        _remove(path, filecaps.NAME)  # A change of owner has, mostly.
    if not noted and (change.journal or change.pending):
        _remove(path, JOURNAL)
    if change.forgets:
        _remove(path, KEPT)


def _note(path: str, change: Change, noted: bool) -> None:
    """Note what a change of owner takes away."""
    if noted:
        _remove(path, JOURNAL)
    if change.kept is not None:
        os.setxattr(path, KEPT, change.kept)
    if change.journal and not noted:
        pending = encode_journal(change.mode, change.capability)
        os.setxattr(path, JOURNAL, pending)


def _remove(path: str, name: str) -> None:
    try:
        os.removexattr(path, name)
    except OSError as err:
        if err.errno != errno.ENODATA:
            raise


def read_xattrs(path: str) -> dict[str, bytes]:
    """Return the extended attributes that :func:`plan` wants.

    :param path: ``/proc/self/fd/N``.
    """
    try:
        there = os.listxattr(path)
    except OSError as err:
        # XFS and btrfs let a list grow beyond what the kernel hands out.
        if err.errno != errno.E2BIG:
            raise
        there = list(_READ)
    found = {name: _read(path, name) for name in _READ if name in there}
    return {name: each for name, each in found.items() if each is not None}


def _read(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as err:
        if err.errno == errno.EINVAL:
            return UNREADABLE
        if err.errno != errno.ENODATA:
            raise
        return None


def encode_journal(mode: int | None, caps: bytes | None) -> bytes:
    """Return the value of :data:`JOURNAL`."""
    octal = "-" if mode is None else f"{mode:o}"
    return f"{octal} {'-' if caps is None else caps.hex()}".encode()


def decode_journal(value: bytes) -> tuple[int | None, bytes | None] | None:
    """Return mode and capability of :data:`JOURNAL`, None for each missing.

    None for both if it is none of ours, as an image may bring one: the kernel
    writes an attribute whole.
    """
    try:
        octal, caps = value.decode("ascii").split(" ")
        return (
            None if octal == "-" else int(octal, 8) & 0o7777,
            None if caps == "-" else bytes.fromhex(caps),
        )
    except ValueError:
        return None
