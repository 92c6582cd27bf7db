# SPDX-License-Identifier: Apache-2.0
"""Control groups of a process, as the host has them.

See :manpage:`cgroups(7)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lxc_userns.linux import directory
from lxc_userns.linux.bounds import at_most
from lxc_userns.linux.mounts import Mount

V1, V2 = "cgroup", "cgroup2"
#: What the kernel says that the owner of a group of version 2 may have
#: (cgroup-v2.rst, "Model of Delegation").
_DELEGATE = "/sys/kernel/cgroup/delegate"
#: The same of kernels before 4.15, which do not say.
_ALWAYS = frozenset(
    {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
)
#: Runs a program as the host's root (version 1, kernels before 5.17, or
#: whoever has the capabilities).
RELEASE_AGENT = "release_agent"

#: Names in a group; the kernel's own files are less than a hundred.
_MOST_NAMES = 10_000

#: Whether somebody may write to what has this status.
Writes = Callable[[os.stat_result], bool]


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of a process, or one above it.

    :param hierarchy: what the hierarchy is called: its controllers, its
        name, or ``version 2``.
    :param path: its directory on the host.
    :param is_own: whether it is the process's own, not one above.
    :param controls: whether limits of anything depend on the hierarchy.
    """

    hierarchy: str
    path: str
    is_own: bool
    controls: bool

    @property
    def is_unified(self) -> bool:
        """Return whether it is of version 2."""
        return self.hierarchy == "version 2"


def can_freeze() -> bool:
    """Return whether there is the freezer of version 1.

    libvirt's LXC driver pauses containers by that, up to libvirt 11 at least.
    That of version 2 is a file of each group.
    """
    with open("/proc/self/cgroup", encoding="ascii") as stream:
        rows = [line.split(":", 2) for line in stream]
    return any(
        "freezer" in controllers.split(",") for _, controllers, _ in rows
    )


def groups(of: dict[str, str], known: Sequence[Mount]) -> Iterator[Group]:
    """Yield the groups of a process and all above that the host has.

    :param of: as :attr:`Process.cgroups`.
    :param known: the mounts of the host.
    """
    for controllers, path in of.items():
        mount = _find(controllers, known)
        root = "" if mount is None else mount.root.rstrip("/")
        if mount is None or not f"{path}/".startswith(f"{root}/"):
            continue
        own = list(filter(None, path[len(root) :].split("/")))
        for depth in range(len(own), -1, -1):
            yield Group(
                controllers or "version 2",
                "/".join([mount.point, *own[:depth]]),
                depth == len(own),
                not controllers.startswith("name="),
            )


def writable(group: Group, writes: Writes) -> list[str]:
    """Return the files of a group that somebody may write, ``.`` for itself.

    :param writes: whether they may, going by the status.
    :raises BoundExceededError: if it has too many groups below it, and is
        whose they are to make.
    """
    found: list[str] = []
    with suppress(FileNotFoundError), directory.opened(group.path) as fd:
        for name in (".", *sorted(_files(group, fd))):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if writes(status):
                found.append(name)
    return found


def _files(group: Group, fd: int) -> Iterator[str]:
    """Yield names in a group, without those of the groups below it."""
    with os.scandir(fd) as entries:
        bounded: Iterator[os.DirEntry[str]] = entries
        if group.is_own:
            what = f"names in its control group {group.path}"
            bounded = at_most(_MOST_NAMES, entries, what)
        for entry in bounded:
            if not entry.is_dir(follow_symlinks=False):
                yield entry.name


def give_to_root(group: Group, names: Sequence[str]) -> None:
    """Make files of a group belong to the host's root.

    :raises OSError: if that is refused.
    """
    with directory.opened(group.path) as fd:
        for name in names:
            os.chown(name, 0, 0, dir_fd=fd, follow_symlinks=False)


def delegated() -> frozenset[str]:
    """Return the files of a group of version 2 that its owner may have."""
    try:
        with open(_DELEGATE, encoding="ascii") as stream:
            return frozenset(stream.read().split())
    except FileNotFoundError:
        return _ALWAYS


def _find(controllers: str, known: Sequence[Mount]) -> Mount | None:
    for mount in known:
        if not controllers and mount.fs_type == V2:
            return mount
        if (
            controllers
            and mount.fs_type == V1
            and mount.fs_options.issuperset(controllers.split(","))
        ):
            return mount
    return None
