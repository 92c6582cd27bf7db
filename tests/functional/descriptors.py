# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the tests' own process."""

import contextlib
import os
from collections import Counter


def own_descriptors() -> Counter[str]:
    """Count what is open, by what it is."""
    found: Counter[str] = Counter()
    for each in os.scandir("/proc/self/fd"):
        # That of the list itself is closed by then.
        with contextlib.suppress(FileNotFoundError):
            found[os.readlink(each.path)] += 1
    return found


def opened_files() -> Counter[str]:
    """Count those that are of files and directories."""
    found = own_descriptors()
    return Counter({path: found[path] for path in found if path[0] == "/"})
