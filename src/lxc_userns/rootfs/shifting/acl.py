# SPDX-License-Identifier: Apache-2.0
"""POSIX ACLs as the kernel keeps them in extended attributes.

Layout: ``include/uapi/linux/posix_acl_xattr.h``; meaning: :manpage:`acl(5)`.
A chown leaves ACLs alone, so their user and group qualifiers are shifted
here.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_OWNER = 0x01
_USER = 0x02
_OWNING_GROUP = 0x04
_GROUP = 0x08
_MASK = 0x10
_OTHERS = 0x20
#: Qualifier of entries that need none.
_NONE = 2**32 - 1


def _entries(value: bytes) -> list[tuple[int, int, int]]:
    """Tag, permissions and qualifier of each; none if it is no ACL."""
    if (
        len(value) < _HEADER.size
        or (len(value) - _HEADER.size) % _ENTRY.size
        or _HEADER.unpack_from(value)[0] != _VERSION
    ):
        return []
    return list(_ENTRY.iter_unpack(value[_HEADER.size :]))


def qualifiers(value: bytes) -> tuple[set[int], set[int]]:
    """Return the user IDs and the group IDs that an ACL names.

    :param value: the extended attribute's value.
    """
    entries = _entries(value)
    return (
        {number for tag, _, number in entries if tag == _USER},
        {number for tag, _, number in entries if tag == _GROUP},
    )


def closed_but_to(uid: int) -> bytes:
    """Return the ACL of a directory that is for its owner and one user alone.

    :param uid: the user, who may list it and go through it.
    """
    entries = (
        (_OWNER, 7, _NONE),
        (_USER, 5, uid),
        (_OWNING_GROUP, 0, _NONE),
        (_MASK, 5, _NONE),
        (_OTHERS, 0, _NONE),
    )
    return _pack(entries)


def translate(
    value: bytes,
    uid: Callable[[int], int],
    gid: Callable[[int], int],
) -> bytes:
    """Return an ACL with its qualifiers translated.

    :param value: the extended attribute's value.
    :param uid: gives the new user ID of a user ID.
    :param gid: gives the new group ID of a group ID.
    :returns: the new value; the old one if nothing in it changes, or if it is
        no ACL that we know.
    """
    old = _entries(value)
    new = {_USER: uid, _GROUP: gid}
    entries = [
        (tag, permissions, new[tag](number) if tag in new else number)
        for tag, permissions, number in old
    ]
    if entries == old:
        return value
    return _pack(entries)


def _pack(entries: Iterable[tuple[int, int, int]]) -> bytes:
    return _HEADER.pack(_VERSION) + b"".join(
        _ENTRY.pack(*entry) for entry in entries
    )
