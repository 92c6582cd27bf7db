# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the tests' own process."""

import contextlib
import os
from collections import Counter


def own_descriptors() -> Counter[str]:
    """Count what is open, by what it is.

    Not connections to libvirtd, a socket and an event each: they end when
    Python finds that nobody has them.
    """
    found: Counter[str] = Counter()
    for each in os.scandir("/proc/self/fd"):
        # That of the list itself is closed by then.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(each.path)
            if not target.startswith(("socket:", "anon_inode:[eventfd]")):
                found[target] += 1
    return found
