# SPDX-License-Identifier: Apache-2.0
"""Rules about what a container sees of the host's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.audit.finding import Rule, Violation
from lxc_userns.audit.id_maps import has_id_maps
from lxc_userns.audit.paths import is_view, normalised, sensitivity
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import child
from lxc_userns.domain.filesystem import (
    OLDROOT,
    ROOT_TYPES,
    is_reserved,
    is_within,
    target_of,
    type_of,
    userns_problems,
)
from lxc_userns.findings import Severity

HOST_ROOT: Final = Rule(
    "host-root-filesystem",
    Severity.CRITICAL,
    "the host's own root filesystem",
    "Where no filesystem has the target / libvirt takes the host's tree as "
    "the root: the container sees all files of the host, and the sockets of "
    "its services below /run.",
    "give it a root filesystem of its own: a <filesystem> with the target "
    "'/', exactly so",
)
ROOT_TWICE: Final = Rule(
    "root-filesystem-twice",
    Severity.WARN,
    "several root filesystems",
    "libvirt takes the first and passes over the others, which whoever reads "
    "the XML may not expect.",
    "leave one",
)
HOST_PATH: Final = Rule(
    "host-path",
    Severity.HIGH,
    "a place of the host that is not for containers",
    "Sockets below /run reach systemd, D-Bus, libvirtd and others, whatever "
    "the mount's options; devices, the kernel's settings and the host's "
    "configuration are no safer.",
    "give it a directory that is for this container alone",
)
REFUSED: Final = Rule(
    "filesystem-refused",
    Severity.ERROR,
    "a filesystem that cannot be mounted",
    "In a user namespace the kernel mounts no disks (EACCES or EPERM), and "
    "libvirt's LXC driver has no such filesystems as others, or as the root.",
    "mount it on the host, and give it as type 'mount'",
)
RESERVED_TARGET: Final = Rule(
    "reserved-target",
    Severity.WARN,
    "a filesystem where libvirt has a mount of its own",
    "libvirt first unmounts all that is at or below a target. On /proc/sys "
    "that takes away what keeps the host's settings read-only, on /proc, "
    "/sys or /dev it takes away the container's own.",
    "take another target",
)
READONLY: Final = Rule(
    "readonly-not-enforced",
    Severity.HIGH,
    "a read-only filesystem that may be writable",
    "With ID maps libvirt remounts it read-only inside the user namespace. "
    "Where the source's mount has nodev, nosuid or noexec the kernel refuses "
    "that; libvirt logs an error and starts the container with the filesystem "
    "writable.",
    "mount it read-only on the host, and leave out <readonly/>",
)
WRITABLE: Final = Rule(
    "writable-host-path",
    Severity.WARN,
    "files of the host that the container may change",
    "What the host or another container reads from there is the container's "
    "to write; without a user namespace also set-user-ID programs and device "
    "nodes.",
    "mount it read-only, or as a volume of lxc-userns",
)
RULES: Final = (
    HOST_ROOT,
    ROOT_TWICE,
    HOST_PATH,
    REFUSED,
    RESERVED_TARGET,
    READONLY,
    WRITABLE,
)

#: All that LXC can mount; its schema has more.
_TYPES: Final = frozenset({"mount", "bind", "file", "block", "ram"})
#: Those that show a directory as it is.
_SHOWN: Final = frozenset({"mount", "bind"})
_SOURCES: Final = ("dir", "file", "dev")


@dataclass(frozen=True, slots=True)
class FilesystemEntry:
    """A filesystem of a container.

    :param element: its element.
    :param kind: its type.
    :param target: where it is in the container, as the XML has it.
    :param source: normalised path on the host, None if it has none.
    :param readonly: whether it is to be read-only.
    """

    element: etree._Element
    kind: str
    target: str
    source: str | None
    readonly: bool

    @property
    def is_root(self) -> bool:
        """Whether libvirt takes it for a root."""
        return self.target == "/"


def read_filesystems(domain: etree._Element) -> list[FilesystemEntry]:
    """Return the filesystems of a domain."""
    return [
        FilesystemEntry(
            element,
            type_of(element),
            target_of(element) or "",
            _source(element),
            element.find("readonly") is not None,
        )
        for element in domain.iterfind("devices/filesystem")
    ]


def _source(element: etree._Element) -> str | None:
    paths = (child(element, "source", name) for name in _SOURCES)
    path = next((each for each in paths if each), None)
    if path is None:
        return None
    path = normalised(path)
    if type_of(element) != "bind":
        return path
    # A place in the container, unless it is in what is left of the host.
    if is_within(path, OLDROOT):
        return normalised(path.removeprefix(OLDROOT))
    return None


def find(domain: etree._Element, run_path: str) -> Iterator[Violation]:
    """Yield all that is wrong with a domain's filesystems.

    :param run_path: where our views are.
    """
    filesystems = read_filesystems(domain)
    mapped = has_id_maps(domain)
    yield from _roots(domain, filesystems)
    for seen in filesystems:
        yield from _refused(seen, mapped)
        yield from find_sensitive(seen, run_path)
        yield from _writable(seen, run_path)
        target = normalised(seen.target)
        if is_reserved(target):
            yield RESERVED_TARGET.violation(
                seen.element,
                f"filesystem {shown(seen.target)}: libvirt has a mount of its "
                "own there",
            )


def _roots(
    domain: etree._Element, filesystems: list[FilesystemEntry]
) -> Iterator[Violation]:
    roots = [seen for seen in filesystems if seen.is_root]
    if not roots:
        devices = domain.find("devices")
        almost = [
            shown(seen.target)
            for seen in filesystems
            if normalised(seen.target) == "/"
        ]
        text = "no filesystem has the target '/': the root is the host's"
        if almost:
            text += f"; libvirt does not take {almost[0]} for it"
        yield HOST_ROOT.violation(domain if devices is None else devices, text)
    for seen in roots[1:]:
        yield ROOT_TWICE.violation(
            seen.element,
            "one more filesystem has the target '/'; libvirt takes the first",
        )


def _refused(seen: FilesystemEntry, mapped: bool) -> Iterator[Violation]:
    what = f"filesystem {shown(seen.target)} of type {shown(seen.kind)}"
    if seen.kind not in _TYPES:
        yield REFUSED.violation(
            seen.element, f"{what}: libvirt's LXC driver cannot mount that"
        )
        return
    if seen.is_root and seen.kind not in ROOT_TYPES:
        yield REFUSED.violation(seen.element, f"{what}: it cannot be the root")
    if not mapped:
        return
    for problem in userns_problems(seen.kind, seen.target, False):
        yield REFUSED.violation(seen.element, problem)
    for problem in userns_problems("mount", seen.target, seen.readonly):
        if seen.kind in _SHOWN:
            yield READONLY.violation(seen.element, problem)


def find_sensitive(
    seen: FilesystemEntry, run_path: str
) -> Iterator[Violation]:
    """Yield violations if a source is not for containers.

    :param run_path: where our views are.
    """
    source = seen.source
    # Of a disk or an image the container sees what is on it.
    if source is None or seen.kind not in _SHOWN:
        return
    what = _describe_source(seen)
    if source == "/":
        yield HOST_ROOT.violation(seen.element, f"{what}: all that it has")
    elif reason := sensitivity(source, run_path):
        yield HOST_PATH.violation(seen.element, f"{what}: {reason}")


def _writable(seen: FilesystemEntry, run_path: str) -> Iterator[Violation]:
    if seen.source is None or seen.kind != "mount":
        return
    if not (seen.is_root or seen.readonly or is_view(seen.source, run_path)):
        yield WRITABLE.violation(
            seen.element, f"{_describe_source(seen)}, and can be written to"
        )


def _describe_source(seen: FilesystemEntry) -> str:
    return (
        f"filesystem {shown(seen.target)} is {shown(seen.source)} of the host"
    )
