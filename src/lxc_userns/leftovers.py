# SPDX-License-Identifier: Apache-2.0
"""What is still on disk for leases that were released: shifted trees."""

from __future__ import annotations

import errno
import os
import stat

from lxc_userns.idset import IdSet
from lxc_userns.leases import Leases, ShiftedTree
from lxc_userns.rootfs.state import STATE, State


def find(leases: Leases) -> list[ShiftedTree]:
    """What keeps ranges from being leased again."""
    return [tree for tree in _released(leases) if _is_shifted(tree)]


def forget(leases: Leases) -> None:
    """Forget what is gone from the disk, or not shifted any more."""
    leases.forget_trees(
        tree for tree in _released(leases) if not _is_shifted(tree)
    )


def _released(leases: Leases) -> list[ShiftedTree]:
    """What was shifted for leases that nobody has now."""
    return [
        tree
        for tree in leases.trees()
        if not leases.meeting("uid", tree.ids("uid"))
    ]


def _is_shifted(tree: ShiftedTree) -> bool:
    """Whether it is, wholly or in part."""
    try:
        if not stat.S_ISDIR(os.lstat(tree.path).st_mode):
            return True  # What is in an image, nobody sees from outside.
        value = os.getxattr(tree.path, STATE, follow_symlinks=False)
        state = State.decode(value)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        return err.errno not in (errno.ENODATA, errno.EOPNOTSUPP)
    except ValueError:
        return True  # In doubt it is.
    if state.work is not None:
        return True
    return state.maps is not None and any(
        IdSet((tree.ids(kind),)).meets(entry.host_ids)
        for kind, entry in state.maps.entries
    )
