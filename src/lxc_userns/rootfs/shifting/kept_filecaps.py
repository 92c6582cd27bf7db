# SPDX-License-Identifier: Apache-2.0
"""File capabilities whose translation would not lead back to what they were.

An owner tells whether its inode is shifted already, and so how to read the
root ID of its capabilities: one that is a host ID on an inode that is not
shifted comes from elsewhere (another host's container, or an image that means
harm). It would count in the container, and after an unshift for all users of
the host. So it is put away in a note on the inode, and an unshift gives it
back as it was.

The owner of an inode tells nothing if no entry covers it, or if it is the same
host ID in the maps before and after a reshift. There a note says of
capabilities that they are shifted; a root ID that is a host ID of the new maps
alone comes from elsewhere without that note.
"""

from __future__ import annotations

from lxc_userns.rootfs.shifting import filecaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxc_userns.rootfs.shifting.owners import Ids

#: Name of the note, on inodes of a shifted tree: what file capabilities that
#: are put away were, or :data:`SHIFTED`.
KEPT = "trusted.lxc_userns.capability"
#: Note on capabilities that are shifted, though the owner of their inode does
#: not tell.
SHIFTED = b"shifted"


class Plan:
    """Plan for the file capabilities of an inode.

    :param value: what they shall be, None for none.
    :param note: what to note before; None if nothing.
    :param forgets: whether a note is removed in the end.
    :param drops: whether those that are there are put away.
    :param foreign: root ID of those that are, or were, put away.
    """

    __slots__ = ("drops", "foreign", "forgets", "note", "value")

    def __init__(
        self,
        value: bytes | None,
        note: bytes | None = None,
        forgets: bool = False,
        drops: bool = False,
        foreign: int | None = None,
    ) -> None:
        self.value = value
        self.note = note
        self.forgets = forgets
        self.drops = drops
        self.foreign = foreign


def read(note: bytes | None) -> bytes | None:
    """Return a note, None if it is none of ours, as an image may bring one.

    Only capabilities with a root ID are put away, as the kernel takes them.
    """
    if note in (None, SHIFTED):
        return note
    is_ours = _root_of(note) and filecaps.translate(note, int) == note
    return note if is_ours else None


def shift(
    current: bytes | None, kept: bytes | None, uid: int, uids: Ids
) -> Plan:
    """Plan for a pass that leads to host IDs.

    :param current: the capabilities.
    :param kept: the note on the inode.
    :param uid: its owner before the pass.
    :param uids: the translation of user IDs.
    """
    if current is None:
        return Plan(None, foreign=_root_of(kept))
    if _is_as_before(current, kept, uid, uids):
        return Plan(current, forgets=kept == current)
    if _is_foreign(current, kept, uid, uids):
        note = current if kept in (None, SHIFTED) else None
        return Plan(None, note, drops=True, foreign=_root_of(current))
    return translated(current, kept, uid, uids)


def translated(value: bytes, kept: bytes | None, uid: int, uids: Ids) -> Plan:
    """Plan for capabilities that a pass to host IDs translates."""
    new = filecaps.translate(value, uids.qualifier)
    root = _root_of(new)
    if kept is not None or root is None:
        return Plan(new)
    # Of the owner that the inode is to have: it tells nothing then.
    if uids.is_same(uids[uid]):
        needs_note = root != _root_of(value)
    else:
        needs_note = uids.stays_unmapped(uid) and uids.is_reached(root)
    return Plan(new, note=SHIFTED if needs_note else None)


def put_away(kept: bytes) -> Plan:
    """Plan for capabilities that are noted already."""
    return Plan(None, drops=True, foreign=_root_of(kept))


def unshift(
    current: bytes | None, kept: bytes | None, uid: int, uids: Ids
) -> Plan:
    """Plan for a pass that leads to guest IDs; the same parameters."""
    has_note = kept is not None
    is_shifted = kept == SHIFTED
    if has_note and not is_shifted and current in (None, kept):
        return Plan(kept, forgets=True)
    if current is None:
        return Plan(None, forgets=has_note)
    stays = uids[uid] == uid
    if stays and not is_shifted and (uids.is_final(uid) or not has_note):
        # Arrived; or from elsewhere, and never shifted.
        return Plan(current, forgets=has_note)
    new = filecaps.translate(current, uids.qualifier)
    return Plan(new, forgets=has_note)


def _is_as_before(
    current: bytes, kept: bytes | None, uid: int, uids: Ids
) -> bool:
    """Return whether a pass that is taken back has not come here."""
    if uids.is_undone(uid):
        return True
    no_note = kept in (None, current)
    return uids.undoes_shift and no_note and uids.tells_nothing(uid)


def _is_foreign(
    current: bytes, kept: bytes | None, uid: int, uids: Ids
) -> bool:
    """Return whether the root ID is shifted and the inode is not."""
    root = _root_of(current)
    if not root or uids.qualifier(root) != root or not uids.is_host_id(root):
        return False
    if uids[uid] != uid:
        was_shifted = kept == SHIFTED or uids.was_shifted(uid)
        return not (was_shifted and uids.was_shifted(root))
    if not uids.tells_nothing(uid) or kept not in (None, current):
        return False
    return uids.stays_unmapped(uid) or not uids.is_same(root)


def _root_of(value: bytes | None) -> int | None:
    return None if value is None else filecaps.root_id(value)
