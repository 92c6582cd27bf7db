# SPDX-License-Identifier: Apache-2.0
"""Root filesystems: shifted on disk, or seen through a view.

The names are loaded when they are first used, so that a worker process,
which lives in this package too, starts quickly.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxc_userns.rootfs.shifting import Finding as Finding
    from lxc_userns.rootfs.shifting import ShiftReport as ShiftReport
    from lxc_userns.rootfs.shifting import VerifyReport as VerifyReport
    from lxc_userns.rootfs.shifting import read_state as read_state
    from lxc_userns.rootfs.shifting import shift as shift
    from lxc_userns.rootfs.shifting import unshift as unshift
    from lxc_userns.rootfs.shifting import verify as verify

__all__ = [
    "Finding",
    "ShiftReport",
    "VerifyReport",
    "read_state",
    "shift",
    "unshift",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.shifting"), name)
