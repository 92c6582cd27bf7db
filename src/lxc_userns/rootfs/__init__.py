# SPDX-License-Identifier: Apache-2.0
"""Root filesystems: shifted on disk, or seen through a view.

The names are loaded when they are first used, so that a worker process,
which lives in this package too, starts quickly.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxc_userns.rootfs.archive.unpack import UnpackReport as UnpackReport
    from lxc_userns.rootfs.archive.unpack import unpack as unpack
    from lxc_userns.rootfs.shifting.report import Finding as Finding
    from lxc_userns.rootfs.shifting.report import ShiftReport as ShiftReport
    from lxc_userns.rootfs.shifting.report import VerifyReport as VerifyReport
    from lxc_userns.rootfs.shifting.shift import read_state as read_state
    from lxc_userns.rootfs.shifting.shift import shift as shift
    from lxc_userns.rootfs.shifting.shift import unshift as unshift
    from lxc_userns.rootfs.shifting.shift import verify as verify
    from lxc_userns.rootfs.views.standalone import (
        mount_idmapped as mount_idmapped,
    )
    from lxc_userns.rootfs.views.standalone import (
        mount_overlay as mount_overlay,
    )
    from lxc_userns.rootfs.views.standalone import unmount as unmount

_HOMES = {
    "Finding": "shifting.report",
    "ShiftReport": "shifting.report",
    "UnpackReport": "archive.unpack",
    "VerifyReport": "shifting.report",
    "mount_idmapped": "views.standalone",
    "mount_overlay": "views.standalone",
    "read_state": "shifting.shift",
    "shift": "shifting.shift",
    "unmount": "views.standalone",
    "unpack": "archive.unpack",
    "unshift": "shifting.shift",
    "verify": "shifting.shift",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except KeyError:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}"
        ) from None
    return getattr(home, name)
