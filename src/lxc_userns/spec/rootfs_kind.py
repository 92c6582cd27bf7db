# SPDX-License-Identifier: Apache-2.0
"""Kinds of root filesystem, as whoever gives one says."""

from __future__ import annotations

from typing import Literal, cast, get_args

#: A directory; a raw disk image, in a file or on a block device; a tar
#: archive.
RootfsKind = Literal["directory", "image", "archive"]
_KINDS = get_args(RootfsKind)


def parse_kind(value: object) -> RootfsKind:
    """Return a value as a kind.

    :raises ValueError: if it is none.
    """
    if value not in _KINDS:
        expected = ", ".join(_KINDS[:-1])
        raise ValueError(
            f"rootfs_kind {value!r}: expected {expected} or {_KINDS[-1]}"
        )
    return cast("RootfsKind", value)
