# SPDX-License-Identifier: Apache-2.0
"""Filesystems of a container: ``<filesystem>``."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import check_path, refuse, shown
from lxc_userns.domain.document import child, parse_domain

#: Attribute of ``<source>`` that says where from, by type.
_SOURCES: Final = {
    "mount": "dir",
    "bind": "dir",
    "file": "file",
    "block": "dev",
    "ram": "usage",
}
#: Types that can be the root; libvirt refuses others when it starts.
ROOT_TYPES: Final = frozenset({"mount", "file", "block"})

#: Where libvirt keeps the host's tree while it mounts.
OLDROOT: Final = "/.oldroot"
# libvirt unmounts all that is at or below a target first, so on these it
# would take away the container's own /proc, /dev and so on; /proc/sys is
# read-only for the host's protection.
_RESERVED: Final = frozenset({"/dev", "/proc", "/sys"})
_RESERVED_TREES: Final = (OLDROOT, "/dev/pts", "/proc/sys")


@dataclass(frozen=True, slots=True)
class Filesystem:
    """Directory or file of the host in a container, of type ``mount``.

    :param source: absolute path on the host.
    :param target: place in the container: an absolute path without ``.``,
        ``..`` or double slashes, as libvirt knows its root only by the exact
        name ``/``.
    :param origins: what the source is a view of: other paths on the host.
    :param readonly: whether the source is a read-only mount. That alone
        counts: of ``<readonly/>`` libvirt makes a remount that can fail in
        silence.
    :raises DomainXmlError: for a value that libvirt refuses, or would fail
        on when the container starts.
    """

    source: str
    target: str
    origins: tuple[str, ...] = ()
    readonly: bool = False

    def __post_init__(self) -> None:
        _check_target(self.target)
        check_path(f"source of filesystem {self.target}", self.source)

    def to_element(self) -> etree._Element:
        """Return ``<filesystem>``."""
        element = etree.Element("filesystem", type="mount")
        etree.SubElement(element, "source", dir=self.source)
        etree.SubElement(element, "target", dir=self.target)
        return element


def is_reserved(target: str) -> bool:
    """Return whether libvirt has a mount of its own at a normalised target."""
    return target in _RESERVED or any(
        is_within(target, tree) for tree in _RESERVED_TREES
    )


def is_within(path: str, tree: str) -> bool:
    """Return whether a normalised path is a tree's root, or below it."""
    return path == tree or path.startswith(f"{tree.rstrip('/')}/")


def normalised(path: str) -> str:
    """Return an absolute path without ``.``, ``..`` and needless slashes."""
    # Two slashes at the beginning would stay two.
    return posixpath.normpath(f"/{path.lstrip('/')}")


def _check_target(target: str) -> None:
    what = "filesystem target"
    check_path(what, target)
    if target != normalised(target):
        refuse(what, target, "has an empty, '.' or '..' part")
    if is_reserved(target):
        refuse(what, target, "libvirt has a mount of its own there")


def userns_problems(kind: str, target: str, readonly: bool) -> Iterator[str]:
    """Yield why a filesystem does not go with ID maps.

    Files and block devices are mounted by the container itself, in its user
    namespace, where the kernel refuses to mount a disk (EACCES or EPERM).

    Of ``<readonly/>`` libvirt 9.0.0 makes a remount in that namespace. Where
    the source's mount has ``nodev``, ``nosuid`` or ``noexec``, as many have,
    the kernel refuses it because it would clear them, and libvirt then logs
    an error and starts the container with the filesystem writable. For the
    root it does not start; a tmpfs is the container's own.
    """
    what = f"filesystem {shown(target)}"
    if kind not in ("mount", "bind", "ram"):
        yield (
            f"{what} of type {shown(kind)} cannot be mounted in a user "
            "namespace; mount it on the host and give it as type mount"
        )
    elif readonly and target != "/" and kind != "ram":
        yield (
            f"{what} would be writable, as libvirt may fail in silence to "
            "make it read-only in a user namespace; mount it read-only on "
            "the host, and give it as type mount without readonly"
        )


def type_of(element: etree._Element) -> str:
    """Return the type of a ``<filesystem>``, by default mount."""
    return str(element.get("type", "mount"))


def target_of(element: etree._Element) -> str | None:
    """Return where a ``<filesystem>`` is in the container."""
    return child(element, "target", "dir")


def source_of(element: etree._Element) -> str | None:
    """Return where a ``<filesystem>`` is from; None if that is missing."""
    kind = type_of(element)
    return child(element, "source", _SOURCES.get(kind, "dir"))


def read_root_source(domain_xml: str) -> str | None:
    """Return where the root filesystem of a domain is from, None if unknown.

    :param domain_xml: an LXC domain, from anywhere.
    :raises DomainXmlError: if it is anything else.
    """
    for element in parse_domain(domain_xml).iterfind("devices/filesystem"):
        if target_of(element) == "/":
            return source_of(element)
    return None
