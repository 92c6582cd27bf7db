# SPDX-License-Identifier: Apache-2.0
"""Paths of the host, and which of them are not for containers."""

from __future__ import annotations

import posixpath
from typing import Final

from lxc_userns.domain import filesystem
from lxc_userns.domain.filesystem import is_within

#: Places with what the host's services, users or kernel listen to or trust.
_PLACES: Final = {
    "/run": "sockets of the host's services",
    "/dev": "devices of the host",
    "/proc": "processes and settings of the host",
    "/sys": "devices and settings of the host",
    "/etc": "the host's configuration",
    "/boot": "what the host boots from",
    "/root": "files of the host's root",
    "/var/lib/libvirt": "files and sockets of libvirt",
    "/var/lib/docker": "files of other containers",
    "/var/lib/containerd": "files of other containers",
    "/var/lib/containers": "files of other containers",
    "/var/lib/kubelet": "files of other containers",
    "/var/lib/lxc": "files of other containers",
    "/var/lib/lxd": "files of other containers",
    "/var/lib/incus": "files of other containers",
    "/var/lib/lxc-userns": "files of other containers",
    "/var/spool/cron": "what the host runs by itself",
}
#: Where libvirt's tools keep root filesystems, below such a place.
_ROOTS: Final = "/var/lib/libvirt/filesystems"
#: Sockets by which one can have the host do anything.
_SOCKETS: Final = frozenset(
    {
        "containerd.sock",
        "crio.sock",
        "docker.sock",
        "incusd.socket",
        "libvirt-sock",
        "lxd.socket",
        "podman.sock",
        "virtlxcd-sock",
        "virtqemud-sock",
    }
)


def normalised(path: str) -> str:
    """Return an absolute path without ``.``, ``..`` and needless slashes.

    Links are not followed, but for those that each host has.
    """
    path = filesystem.normalised(path)
    for link, target in (("/var/run", "/run"), ("/var/lock", "/run/lock")):
        if is_within(path, link):
            return target + path.removeprefix(link)
    return path


def is_view(path: str, run_path: str) -> bool:
    """Return whether a normalised path is where our views are."""
    place = normalised(run_path)
    return path != place and is_within(path, place)


def sensitivity(path: str, run_path: str) -> str | None:
    """Return why a normalised path of the host is not for containers.

    :param run_path: where our views are.
    :returns: what it is or contains; None if there is nothing to say.
    """
    if is_view(path, run_path):
        return None
    if posixpath.basename(path) in _SOCKETS:
        return "a socket by which the host can be ruled"
    if path != _ROOTS and is_within(path, _ROOTS):
        return None
    for place, what in _PLACES.items():
        if is_within(path, place):
            return what
        if is_within(place, path):
            return f"{place} is in it, with {what}"
    place = normalised(run_path)
    if is_within(place, path):
        return f"{place} is in it, with views of other containers"
    return None
