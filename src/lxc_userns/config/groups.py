# SPDX-License-Identifier: Apache-2.0
"""Groups of our options, and how messages name an option."""

from __future__ import annotations

from typing import Final

GROUP: Final = "lxc_userns"
LIBVIRT_GROUP: Final = "libvirt"
PRIVILEGED_GROUP: Final = "lxc_userns_privileged"


def option_name(group: str, name: str) -> str:
    """Return an option as messages name it, ``[group] name``."""
    return f"[{group}] {name}"
