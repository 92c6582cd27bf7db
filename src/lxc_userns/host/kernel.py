# SPDX-License-Identifier: Apache-2.0
"""The kernel: what it lacks is tried, and dangers are known by version."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from lxc_userns.findings import Finding
from lxc_userns.host.check import combine, failed, warned
from lxc_userns.linux import syscalls
from lxc_userns.spec.strategy import Strategy

Version = tuple[int, int]

_IDMAPPED_MOUNTS = {"open_tree", "move_mount", "mount_setattr"}
#: Linux versions in which CVE-2018-18955 was made known: five entries of an
#: ID map are looked up in one way, more of them in another, which is wrong.
_MANY_ENTRIES = ((4, 15), (4, 19))
_RELEASE = re.compile(r"(\d+)\.(\d+)")


def check(strategy: str) -> Finding:
    """Return whether this kernel has what is needed.

    :param strategy: value of ``[lxc_userns] rootfs_strategy``.
    """
    return evaluate(os.uname().release, syscalls.missing_syscalls(), strategy)


def evaluate(release: str, missing: Collection[str], strategy: str) -> Finding:
    """Return whether a kernel has what is needed.

    :param release: as ``uname -r`` has it.
    :param missing: system calls that it does not have.
    :param strategy: value of ``[lxc_userns] rootfs_strategy``.
    """
    bad = []
    if _IDMAPPED_MOUNTS & {*missing}:
        bad.append(_without_idmapped_mounts(strategy))
    if "openat2" in missing:
        bad.append(
            warned(
                "it has no openat2 (Linux 5.6 has): that a root filesystem "
                "lacks its init is not noticed before the container starts",
                "boot Linux 5.6 or later",
            )
        )
    version = parse_release(release)
    if version and _MANY_ENTRIES[0] <= version <= _MANY_ENTRIES[1]:
        bad.append(
            warned(
                "root in a container can make ID maps of more than 5 entries "
                "there, and with these get at files of others "
                "(CVE-2018-18955), unless this distribution has mended it",
                "boot Linux 4.20 or later, or a kernel of which its "
                "distribution says that it is mended",
            )
        )
    return combine(f"Linux {release}", bad)


def parse_release(release: str) -> Version | None:
    """Return the first two numbers of a release, None if there are none."""
    found = _RELEASE.match(release)
    return (int(found[1]), int(found[2])) if found else None


def _without_idmapped_mounts(strategy: str) -> Finding:
    message = "it has no idmapped mounts (Linux 5.12 has)"
    if Strategy(strategy).traits.needs_idmapped_mounts:
        return failed(
            f"{message}, and [lxc_userns] rootfs_strategy is {strategy}",
            "set rootfs_strategy to auto or chown, or boot Linux 5.12 or "
            "later",
        )
    return warned(
        f"{message}: root filesystems are shifted on disk (chown), which "
        "takes its time, and volumes cannot be idmapped",
        "boot Linux 5.12 or later",
    )
