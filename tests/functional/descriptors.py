# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the tests' own process."""

import contextlib
import os
from collections import Counter

_OTHERS = ("socket:", "anon_inode:[eventfd]", "pipe:")


def own_descriptors() -> Counter[str]:
    """Count what is open, by what it is.

    Not connections to libvirtd, a socket and an event each: they end when
    Python finds that no one has them. Not pipes, by which the server that runs
    programs is reached from the first on.
    """
    found: Counter[str] = Counter()
    for each in os.scandir("/proc/self/fd"):
        # That of the list itself is closed by then.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(each.path)
            if not target.startswith(_OTHERS):
                found[target] += 1
    return found
