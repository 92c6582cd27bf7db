# SPDX-License-Identifier: Apache-2.0
"""File capabilities as the kernel keeps them in an extended attribute.

Layout: ``struct vfs_ns_cap_data`` in ``include/uapi/linux/capability.h``;
meaning: :manpage:`capabilities(7)`, "File capability extended attribute
versioning". Version 2 counts in the initial user namespace, version 3 only in
a namespace whose root is the host ID it names: a container's file needs
version 3, for version 2 would give the capability to users of the host.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "security.capability"

_REVISION_MASK = 0xFF000000
_EFFECTIVE = 0x00000001
_REVISION_1 = 0x01000000
_REVISION_2 = 0x02000000
_REVISION_3 = 0x03000000
_WORD = struct.Struct("<I")
_SETS_1 = struct.Struct("<2I")
_SETS = struct.Struct("<4I")


def _unpack(value: bytes) -> tuple[int, bytes, int] | None:
    """Return flags, sets in four words, and root ID; None if malformed."""
    if len(value) < _WORD.size:
        return None
    magic = _WORD.unpack_from(value)[0]
    revision, flags = magic & _REVISION_MASK, magic & ~_REVISION_MASK
    body = value[_WORD.size :]
    if revision == _REVISION_1 and len(body) == _SETS_1.size:
        return flags, body + bytes(_SETS_1.size), 0
    if revision == _REVISION_2 and len(body) == _SETS.size:
        return flags, body, 0
    if revision == _REVISION_3 and len(body) == _SETS.size + _WORD.size:
        return flags, body[: _SETS.size], _WORD.unpack(body[_SETS.size :])[0]
    return None


def translate(value: bytes, uid: Callable[[int], int]) -> bytes | None:
    """Return file capabilities with their root ID translated.

    :param value: the extended attribute's value, of any version.
    :param uid: gives the new user ID of a user ID; a version without root ID
        counts as root ID 0.
    :returns: version 3 with the new root ID, version 2 if that is 0, and
        without flags that the kernel would refuse; None if the value is
        malformed: the kernel gives no capability for it.
    """
    parts = _unpack(value)
    if parts is None:
        return None
    flags, sets, root = parts
    flags &= _EFFECTIVE
    root = uid(root)
    if root == 0:
        return _WORD.pack(_REVISION_2 | flags) + sets
    return _WORD.pack(_REVISION_3 | flags) + sets + _WORD.pack(root)


def root_id(value: bytes) -> int | None:
    """Return the root ID of file capabilities, None if they are malformed.

    :param value: the extended attribute's value; a version without root ID
        counts as root ID 0.
    """
    parts = _unpack(value)
    return None if parts is None else parts[2]


def is_of_host(value: bytes) -> bool:
    """Return whether file capabilities count for users of the host.

    :param value: the extended attribute's value, as the host sees it.
    """
    return root_id(value) == 0
