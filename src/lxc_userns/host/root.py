# SPDX-License-Identifier: Apache-2.0
"""Rights of root, and on the host."""

from __future__ import annotations

import os
from pathlib import Path

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned

_UID_MAP = Path("/proc/self/uid_map")
_REMEDY = "run this as root of the host"
#: All there are: that is how the host's own user namespace maps them.
_ALL = ["0", "0", "4294967295"]


def check() -> Finding:
    """Return whether this is root, and of the host."""
    try:
        uid_map = _UID_MAP.read_text(encoding="ascii").split()
    except FileNotFoundError:  # A kernel without user namespaces.
        uid_map = _ALL
    return evaluate(os.geteuid(), uid_map == _ALL)


def evaluate(user: int, all_ids: bool) -> Finding:
    """Return whether this is root, and of the host.

    :param user: its user ID.
    :param all_ids: whether it has all IDs of the host as they are.
    """
    if user != 0:
        return failed(f"this is user {user}; root is needed", _REMEDY)
    if not all_ids:
        return warned("this is root in a user namespace", _REMEDY)
    return passed("this is root")
