# SPDX-License-Identifier: Apache-2.0
"""Propagation of what is mounted for containers to libvirt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.host.paths import nearest
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux import mounts
from lxc_userns.linux.mounts import Mount


def check(run_path: Path, daemon: Daemon | None) -> Finding:
    """Return whether libvirt sees what we mount.

    :param run_path: where views are mounted.
    :param daemon: libvirt's, None if it is not found.
    """
    return evaluate(nearest(run_path).resolve(), mounts.read_mounts(), daemon)


def evaluate(
    place: Path, own: Iterable[Mount], daemon: Daemon | None
) -> Finding:
    """Return whether libvirt sees what we mount.

    :param place: where views are mounted, a path without links.
    :param own: all that this process has mounted.
    :param daemon: libvirt's, None if it is not found.
    """
    if daemon is None:
        return warned(
            "not known, for the process of libvirtd or virtlxcd is not found",
            "start it, and run this as root in the PID namespace that it is "
            "in",
        )
    ours, theirs = (_lies_on(place, each) for each in (own, daemon.mounts))
    if ours is None or theirs is None:
        return warned(
            f"not known, for it is hidden what {place} is mounted on",
            f"run this and {daemon.name} with the host's root directory",
        )
    if ours.number == theirs.number:
        return passed(f"{daemon} has the same mounts as this process")
    # What is mounted on one of its peers appears on a mount; so it does if
    # that only receives (mount_namespaces(7)).
    if ours.peers is not None and ours.peers in (theirs.peers, theirs.master):
        return passed(f"what is mounted below {place} reaches {daemon}")
    return failed(
        f"{daemon} is in another mount namespace, and what is mounted below "
        f"{place} does not reach it",
        f"run this and {daemon.name} in one mount namespace, without "
        f"PrivateMounts= and the like, or mount --make-rshared {ours.point} "
        f"before {daemon.name} starts",
    )


def _lies_on(path: Path, found: Iterable[Mount]) -> Mount | None:
    """Return the mount that a path is on; of several at one point the last."""
    above = [each for each in found if path.is_relative_to(each.point)]
    # Sorting keeps the order of those at one point.
    above.sort(key=lambda mount: len(mount.point))
    return above[-1] if above else None
