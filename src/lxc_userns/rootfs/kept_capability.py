# SPDX-License-Identifier: Apache-2.0
"""File capabilities whose translation would not lead back to what they were.

An owner tells whether its inode is shifted already, and so how to read the
root ID of its capabilities: one that is a host ID on an inode that is not
shifted comes from elsewhere (another host's container, or an image that means
harm). It would count in the container, and after an unshift for all users of
the host. So it is put away in a note on the inode, and an unshift gives it
back as it was. Where an owner stays as it is, as no entry covers it, nothing
tells, and the capabilities are taken for shifted.
"""

from __future__ import annotations

from lxc_userns.rootfs import capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxc_userns.rootfs.owners import Ids

#: What file capabilities were, on inodes of a shifted tree.
KEPT = "trusted.lxc_userns.capability"


class Plan:
    """What becomes of the file capabilities of an inode.

    :param value: what they shall be, None for none.
    :param note: what to note before; None if nothing.
    :param forgets: whether a note is removed in the end.
    :param drops: whether those that are there are put away.
    """

    __slots__ = ("drops", "forgets", "note", "value")

    def __init__(
        self,
        value: bytes | None,
        note: bytes | None = None,
        forgets: bool = False,
        drops: bool = False,
    ) -> None:
        self.value = value
        self.note = note
        self.forgets = forgets
        self.drops = drops


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
        return Plan(None)
    if is_foreign(current, uid, uids):
        note = current if kept is None else None
        return Plan(None, note=note, drops=True)
    return Plan(capability.translate(current, uids.qualifier))


def put_away() -> Plan:
    """Plan for capabilities that are noted already."""
    return Plan(None, drops=True)


def unshift(
    current: bytes | None, kept: bytes | None, uid: int, uids: Ids
) -> Plan:
    """Plan for a pass that leads to guest IDs; the same parameters."""
    if kept is not None and current in (None, kept):
        return Plan(kept, forgets=True)
    has_arrived = uids[uid] == uid and uids.is_last and uids.is_final(uid)
    if current is None or has_arrived:
        return Plan(current)
    new = capability.translate(current, uids.qualifier)
    return Plan(new, forgets=kept is not None)


def is_foreign(value: bytes, uid: int, uids: Ids) -> bool:
    """Whether the root ID is a host ID though the inode is not shifted.

    :param value: the capabilities.
    :param uid: owner of the inode before the pass, which is to host IDs.
    """
    root = capability.root_id(value)
    if not root or uids[uid] == uid or uids.qualifier(root) != root:
        return False
    return uids.is_last and uids.is_final(root)
