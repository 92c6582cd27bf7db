# SPDX-License-Identifier: Apache-2.0
"""Mounts of a container, compared with its views; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

from lxc_userns.text import escape

if TYPE_CHECKING:
    from lxc_userns.linux.mounts import Mount
    from lxc_userns.verification.expectation import Expectation, View
    from lxc_userns.verification.observed import Observed

#: What libvirt shows of the host's /proc. It is that of the network namespace
#: of whoever looks.
OF_NETWORKS: Final = ("/sys/net/ipv4", "/sys/net/ipv6")
#: Filesystems that have a rule, or a permission check, of their own; control
#: groups at this place only.
_CHECKED_ELSEWHERE: Final = frozenset(
    {"devtmpfs", "proc", "securityfs", "selinuxfs", "sysfs"}
)
_CGROUPS: Final = "/sys/fs/cgroup"


class AllowedMount(NamedTuple):
    """A file or directory, by its filesystem and where in that it is."""

    device: str
    path: PurePosixPath

    def has(self, other: AllowedMount) -> bool:
        """Return whether another is the same, or in it."""
        return self.device == other.device and other.path.is_relative_to(
            self.path
        )


def unexpected_mounts(
    expectation: Expectation, observed: Observed
) -> Iterator[str]:
    """Yield mounts of the host in a container that are of no view.

    Its root can only mount again what it has, and that with no less forbidden
    (:manpage:`mount_namespaces(7)`); it has no other filesystem of the host.
    """
    hosts = {device for _, device in observed.host_filesystems}
    views = _places(expectation, observed)
    for mount in observed.mounts:
        if mount.device not in hosts or _is_checked_elsewhere(mount):
            continue
        place = _place(mount)
        within = [(root, view) for root, view in views if root.has(place)]
        if not within:
            yield (
                f"at {escape(mount.point)} it has {escape(mount.root)} of a "
                f"filesystem of the host ({mount.fs_type})"
            )
            continue
        nearest = max(len(root.path.parts) for root, _ in within)
        faults = [
            _fault(view, mount)
            for root, view in within
            if len(root.path.parts) == nearest
        ]
        if all(faults):
            yield f"at {escape(mount.point)} it sees {faults[0]}"


def missing_mounts(
    expectation: Expectation, observed: Observed
) -> Iterator[str]:
    """Yield views that a container was promised and does not have."""
    host = topmost("/", observed.host_mounts)
    if observed.root is None or (
        host is not None and _place(observed.root) == _place(host)
    ):
        yield "its root filesystem is the host's"
    for root, view in _places(expectation, observed):
        there = topmost(view.target, observed.mounts)
        if view.target == "/":
            there = observed.root
        if there is None or _place(there) != root:
            yield f"its {view.target} is not {view.source}"


def topmost(point: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the topmost mount at a place."""
    found = (mount for mount in reversed(mounts) if mount.point == point)
    return next(found, None)


def _places(
    expectation: Expectation, observed: Observed
) -> list[tuple[AllowedMount, View]]:
    """Return views with what each shows, but for those that are absent."""
    found = []
    for view in expectation.views:
        place = _shown_at(view.source, observed.host_mounts)
        if place is not None:
            found.append((place, view))
    return found


def _shown_at(path: str, mounts: Sequence[Mount]) -> AllowedMount | None:
    source = PurePosixPath(path)
    for point in (source, *source.parents):
        mount = topmost(str(point), mounts)
        if mount is not None:
            below = source.relative_to(point)
            return AllowedMount(mount.device, PurePosixPath(mount.root, below))
    return None


def _place(mount: Mount) -> AllowedMount:
    return AllowedMount(mount.device, PurePosixPath(mount.root))


def _is_checked_elsewhere(mount: Mount) -> bool:
    if mount.fs_type in ("cgroup", "cgroup2"):
        return PurePosixPath(mount.point).is_relative_to(_CGROUPS)
    return mount.fs_type in _CHECKED_ELSEWHERE


def _fault(view: View, mount: Mount) -> str:
    lacks = sorted(view.flags - mount.options)
    if view.kind == "idmapped" and "idmapped" not in mount.options:
        lacks.insert(0, "ID maps")
    return f"{view.source} without {', '.join(lacks)}" if lacks else ""
