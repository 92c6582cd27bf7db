# SPDX-License-Identifier: Apache-2.0
"""The boot of the host (:manpage:`random(4)`)."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Return the UUID that the kernel has chosen for this boot."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
