# SPDX-License-Identifier: Apache-2.0
"""Shifted trees that are still on disk for IDs that were given back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.idmap.ranges import overlap
from lxc_userns.instances.conflicts import path_uses
from lxc_userns.leases import LeaseStore, LeaseTransaction, ShiftedTree
from lxc_userns.rootfs.shifting.state import STATE, State

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.instances.record import InstanceRecord


def record(leases: LeaseTransaction, record: InstanceRecord) -> None:
    """Note what of an instance is shifted on disk, or about to be."""
    for use in path_uses(record):
        if record.id_maps is not None and use.may_be_shifted:
            for kind, entry in record.id_maps.entries:
                tree = ShiftedTree(use.path, kind, entry.host_ids)
                leases.note_tree(tree)


def record_shift(store: LeaseStore, path: str, id_maps: IdMaps) -> None:
    """Note that somebody is about to shift a tree by hand.

    :param path: absolute path without links.
    :param id_maps: for which ID maps.
    """
    if not store.exists:
        return
    with store.write() as leases:
        for kind, entry in id_maps.entries:
            leases.note_tree(ShiftedTree(path, kind, entry.host_ids))


def read_state(path: str) -> bytes:
    """Return what a tree says of itself, a directory or an image.

    :raises OSError: if it does not, or is not there.
    :raises LxcUsernsError: if it is an image that cannot be read.
    """
    if stat.S_ISDIR(os.lstat(path).st_mode):
        # Not opened: whoever shifts it just now has locked it.
        return os.getxattr(path, STATE, follow_symlinks=False)
    # Images take much to open, and are few.
    from lxc_userns.rootfs.views import source

    with source.open_source(path, readonly=True) as image:
        return os.getxattr(image.fd, STATE)


def scan(
    store: LeaseStore, read: Callable[[str], bytes] = read_state
) -> dict[ShiftedTree, bool]:
    """Return whether what was shifted for IDs that no one leases still is.

    In doubt everything is that is there. It can take long, so no one is made
    to wait meanwhile.

    :param read: reads what a tree says of itself, as :func:`read_state`.
    """
    with store.read() as leases:
        trees = leases.released_trees()
    return {tree: _is_shifted(tree, read) for tree in trees}


def _is_shifted(tree: ShiftedTree, read: Callable[[str], bytes]) -> bool:
    """Return whether it is, wholly or in part, for these IDs."""
    try:
        value = read(tree.path)
        state = State.decode(value)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        return err.errno not in (errno.ENODATA, errno.EOPNOTSUPP)
    except (LxcUsernsError, ValueError):
        return True
    if state.work is not None:
        return True
    return state.maps is not None and any(
        kind == tree.kind and overlap(tree.ids, entry.host_ids)
        for kind, entry in state.maps.entries
    )
