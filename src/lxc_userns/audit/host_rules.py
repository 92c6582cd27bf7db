# SPDX-License-Identifier: Apache-2.0
"""Rules that need the host beside the XML; what can be said without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from lxml import etree

from lxc_userns.audit.filesystems import FilesystemEntry
from lxc_userns.audit.finding import Rule, Violation
from lxc_userns.audit.id_maps import has_id_maps, read_entries
from lxc_userns.audit.paths import normalised, sensitivity
from lxc_userns.domain.checks import shown
from lxc_userns.domain.filesystem import is_within
from lxc_userns.findings import Severity
from lxc_userns.idmap import KINDS, MAX_ENTRIES
from lxc_userns.idmap.ranges import overlap

IDS_OF_CONTAINER: Final = Rule(
    "ids-of-another-container",
    Severity.HIGH,
    "host IDs of another running container",
    "To the kernel they are the same users: who gets out of one can signal "
    "and trace the processes of the other, and owns its files.",
    "lease a range for each container ([lxc_userns] subid_owner)",
    is_live=True,
)
IDS_OF_HOST: Final = Rule(
    "ids-of-the-host",
    Severity.HIGH,
    "host IDs that somebody on the host holds",
    "A user of the host with such an ID owns files of the container, and the "
    "container can act as that user once it is out; subordinate IDs of "
    "another owner can be another container's at any time.",
    "map to host IDs that no one holds, and reserve them in /etc/subuid and "
    "/etc/subgid",
    is_live=True,
)
REACHABLE_TREE: Final = Rule(
    "reachable-tree",
    Severity.HIGH,
    "users of the host can reach the root filesystem on disk",
    "On disk root in the container is root of the host, so that a program "
    "that it makes set-user-ID is set-user-ID root for every user of the host "
    "who can execute it (CVE-2025-64507).",
    "keep the root filesystem in a directory of root's with mode 0700",
    is_live=True,
)
HOST_SETUID: Final = Rule(
    "host-setuid-files",
    Severity.HIGH,
    "set-user-ID programs of the host's root in the root filesystem",
    "The owners on disk are host IDs, but not of these files: users of the "
    "host who can reach them become root, or get capabilities of the host, "
    "by programs that an image brought.",
    "shift the tree again (lxc-userns rootfs shift), or keep it in a "
    "directory of root's with mode 0700",
    is_live=True,
)
SHARED_SOURCE: Final = Rule(
    "shared-source",
    Severity.WARN,
    "files that another domain has too, one of them to write",
    "What one container writes the other reads, and trusts perhaps; with the "
    "same ID maps it can also change its files.",
    "give each its own, or mount it read-only in both",
    is_live=True,
)
MOUNTED_BELOW: Final = Rule(
    "host-path-below-root",
    Severity.HIGH,
    "a place of the host, mounted below the root filesystem",
    "libvirt gives a container its root filesystem with all that is mounted "
    "in it when it starts, so that it has that place of the host without a "
    "<filesystem> that says so.",
    "unmount it, or start the container from a mount of the directory alone",
    is_live=True,
)
CGROUP_V1: Final = Rule(
    "cgroup-v1-without-idmap",
    Severity.CRITICAL,
    "the host's control groups can be written to",
    "Under version 1 libvirt binds each controller into the container from "
    "the top of its hierarchy, writable. Without ID maps its root can change "
    "the limits of all others, and have the kernel run a program on the host "
    "(release_agent, CVE-2022-0492).",
    "add <idmap>, or boot the host with version 2 alone",
    is_live=True,
)
CGROUP_V2: Final = Rule(
    "cgroup-v2-limits",
    Severity.WARN,
    "the container can raise its own limits",
    "Under version 2 libvirt makes all files of the container's control group "
    "belong to its root, memory.max and pids.max too, and not only those that "
    "are for delegation. Only limits of the groups above hold.",
    "set limits on a group above it, by a <partition> of its own in "
    "<resource>; or run it by this package, which sets them there",
    is_live=True,
)
MANY_ENTRIES: Final = Rule(
    "many-entries",
    Severity.HIGH,
    "more than 5 entries on a kernel that sorts them wrongly",
    "In Linux 4.15 to 4.19 a nested user namespace with more than 5 entries "
    "lets IDs through that are not mapped (CVE-2018-18955).",
    "map with at most 5 entries, or update the kernel",
    is_live=True,
)
RULES: Final = (
    IDS_OF_CONTAINER,
    IDS_OF_HOST,
    REACHABLE_TREE,
    HOST_SETUID,
    SHARED_SOURCE,
    MOUNTED_BELOW,
    CGROUP_V1,
    CGROUP_V2,
    MANY_ENTRIES,
)


class Mounted(Protocol):
    """Mount of the host, as far as it matters here."""

    @property
    def point(self) -> str:
        """Path that it is mounted on."""

    @property
    def device(self) -> str:
        """Filesystem, as ``major:minor``."""

    @property
    def root(self) -> str:
        """Path in the filesystem of what is mounted."""


_RELEASE = re.compile(r"([0-9]+)\.([0-9]+)")
_FLAWED: Final = ((4, 15), (4, 19))


def find_overlaps(
    domain: etree._Element, others: Mapping[str, etree._Element]
) -> Iterator[Violation]:
    """Yield IDs that a domain shares with others.

    :param others: the running ones, by name.
    """
    for name, other in others.items():
        for kind in KINDS:
            theirs = read_entries(other, kind)
            for entry in read_entries(domain, kind):
                if any(
                    overlap(entry.host_ids, each.host_ids) for each in theirs
                ):
                    yield IDS_OF_CONTAINER.violation(
                        entry.element,
                        f"host IDs of the {kind} entry {entry} are those of "
                        f"the running container {shown(name)} too",
                    )


def find_shared(
    mine: Iterable[FilesystemEntry],
    others: Mapping[str, Iterable[FilesystemEntry]],
) -> Iterator[Violation]:
    """Yield sources that a domain shares with others, and one can write to.

    :param mine: its filesystems, with sources on disk.
    :param others: those of other domains, by name.
    """
    for seen in mine:
        for name, theirs in others.items():
            if any(_is_shared(seen, other) for other in theirs):
                yield SHARED_SOURCE.violation(
                    seen.element,
                    f"filesystem {shown(seen.target)} has files "
                    f"({shown(seen.source)}) of the domain {shown(name)} too",
                )


def _is_shared(one: FilesystemEntry, other: FilesystemEntry) -> bool:
    if one.source is None or other.source is None:
        return False
    if one.readonly and other.readonly:
        return False
    return is_within(one.source, other.source) or is_within(
        other.source, one.source
    )


def find_mounted(
    mine: Iterable[FilesystemEntry], mounts: Sequence[Mounted], run_path: str
) -> Iterator[Violation]:
    """Yield places of the host that are mounted below a root filesystem.

    :param mine: the filesystems of a domain, as libvirt mounts them: what is
        mounted below another than the root stays out.
    :param mounts: those of the host.
    :param run_path: where our views are.
    """
    for seen in mine:
        if seen.source is None or seen.source == "/" or not seen.is_root:
            continue
        below: list[Mounted] = []
        others: list[Mounted] = []
        for mount in mounts:
            is_below = mount.point != seen.source and is_within(
                mount.point, seen.source
            )
            (below if is_below else others).append(mount)
        for mount in below:
            for place in _find_places(mount, others):
                reason = sensitivity(place, run_path)
                if reason is not None:
                    yield MOUNTED_BELOW.violation(
                        seen.element,
                        f"{shown(mount.point)}, in filesystem "
                        f"{shown(seen.target)}, is {shown(place)} of the "
                        f"host: {reason}",
                    )
                    break


def _find_places(mount: Mounted, others: Iterable[Mounted]) -> Iterator[str]:
    """Yield where else the host has what is mounted."""
    for other in others:
        if other.device == mount.device and is_within(mount.root, other.root):
            rest = mount.root.removeprefix(other.root.rstrip("/"))
            yield normalised(f"{other.point}{rest}")


def find_cgroups(
    domain: etree._Element, version: int | None
) -> Iterator[Violation]:
    """Yield violations that follow from the version of control groups.

    :param version: which one the host has, None if none.
    """
    mapped = has_id_maps(domain)
    if version == 1 and not mapped:
        yield CGROUP_V1.violation(
            domain,
            "the domain has no ID maps, and this host has control groups of "
            "version 1, to which its root can write",
        )
    if version == 2 and mapped:
        yield CGROUP_V2.violation(
            domain,
            "this host has control groups of version 2, of which libvirt "
            "gives it all files of its own group, and the one above that is "
            "its alone does not limit it as the domain says",
        )


def find_many(domain: etree._Element, release: str) -> Iterator[Violation]:
    """Yield more entries than a kernel can be trusted with.

    :param release: the kernel's, as ``uname -r`` has it.
    """
    match = _RELEASE.match(release)
    if match is None:
        return
    first, last = _FLAWED
    if not first <= (int(match[1]), int(match[2])) <= last:
        return
    for kind in KINDS:
        entries = read_entries(domain, kind)
        if len(entries) > MAX_ENTRIES:
            yield MANY_ENTRIES.violation(
                entries[0].element,
                f"<idmap> has {len(entries)} {kind} entries, and this is "
                f"Linux {release}",
            )
