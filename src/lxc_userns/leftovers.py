# SPDX-License-Identifier: Apache-2.0
"""What is still on disk for leases that were released: shifted trees."""

from __future__ import annotations

import errno
import os
import stat

from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.idset import IdSet
from lxc_userns.leases import Leases, ShiftedTree
from lxc_userns.rootfs import backing
from lxc_userns.rootfs.state import STATE, State


def find(leases: Leases) -> list[ShiftedTree]:
    """What keeps ranges from being leased again.

    In doubt everything does that is there.
    """
    return [tree for tree in leases.released_trees() if _is_shifted(tree)]


def _is_shifted(tree: ShiftedTree) -> bool:
    """Whether it is, wholly or in part, for these IDs."""
    try:
        value = _read_state(tree.path)
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
        IdSet((tree.ids(kind),)).meets(entry.host_ids)
        for kind, entry in state.maps.entries
    )


def _read_state(path: str) -> bytes:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        # Not opened: whoever shifts it just now has locked it.
        return os.getxattr(path, STATE, follow_symlinks=False)
    with backing.opened(path, readonly=True) as image:
        return os.getxattr(image.fd, STATE)
