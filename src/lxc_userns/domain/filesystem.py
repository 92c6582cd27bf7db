# SPDX-License-Identifier: Apache-2.0
"""Filesystems of a container: ``<filesystem>``.

All types that libvirt's LXC driver can mount. Its schema has two more,
``template`` and ``volume``, which LXC defines and then fails to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import (
    check_choice,
    check_number,
    check_path,
    refuse,
    shown,
)
from lxc_userns.domain.document import (
    attribute,
    child,
    parse_domain,
    scaled_kib,
)
from lxc_userns.exceptions import DomainXmlError

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

_DRIVERS: Final = frozenset({"loop", "nbd"})
_FORMATS: Final = frozenset(
    {"raw", "qcow", "qcow2", "qed", "vdi", "vmdk", "vpc"}
)
# libvirt unmounts all that is at or below a target first, so on these it
# would take away the container's own /proc, /dev and so on. /.oldroot is
# where it keeps the host's tree until the end, /proc/sys is read-only for
# the host's protection.
_RESERVED: Final = frozenset({"/dev", "/proc", "/sys"})
_RESERVED_TREES: Final = ("/.oldroot", "/dev/pts", "/proc/sys")
_MAX_KIB: Final = 2**53


@dataclass(frozen=True, slots=True)
class Filesystem:
    """One filesystem of a container; made by a method named like its type.

    :param type: ``mount``, ``bind``, ``file``, ``block`` or ``ram``.
    :param target: where it is in the container: an absolute path without
        ``.``, ``..`` or double slashes, as libvirt knows its root only by
        the exact name ``/``.
    :param source: absolute path, on the host except for ``bind``; None for
        ``ram``.
    :param readonly: with ID maps only for the root and for ``ram``, see
        :func:`userns_problems`.
    :param size_kib: KiB that a ``ram`` filesystem may hold.
    :param driver: ``loop`` or ``nbd`` for ``file``.
    :param format: format of the image for ``file``.
    :raises DomainXmlError: for a value or combination that libvirt refuses,
        ignores or would fail on when the container starts.
    """

    type: str
    target: str
    source: str | None = None
    readonly: bool = False
    size_kib: int | None = None
    driver: str | None = None
    format: str | None = None

    @classmethod
    def mount(
        cls, source: str, target: str, *, readonly: bool = False
    ) -> Filesystem:
        """Show a directory (or file) of the host.

        With ID maps a source that is a read-only mount on the host stays
        read-only in the container, ``readonly`` or not.
        """
        return cls("mount", target, source, readonly)

    @classmethod
    def bind(
        cls, source: str, target: str, *, readonly: bool = False
    ) -> Filesystem:
        """Show a directory of the container at a second place in it.

        :param source: a path in the container. libvirt follows symbolic
            links in it on the host, so it should have none.
        """
        return cls("bind", target, source, readonly)

    @classmethod
    def block(
        cls, source: str, target: str, *, readonly: bool = False
    ) -> Filesystem:
        """Mount a block device of the host; not with ID maps."""
        return cls("block", target, source, readonly)

    @classmethod
    def file(
        cls,
        source: str,
        target: str,
        *,
        readonly: bool = False,
        driver: str = "loop",
        format: str = "raw",
    ) -> Filesystem:
        """Mount an image file of the host; not with ID maps.

        :param driver: ``loop`` for raw images, ``nbd`` (qemu-nbd) for all.
        :param format: ``raw``, ``qcow2``, ``vmdk``, ``vdi``, ``vpc``, ...
        """
        return cls(
            "file", target, source, readonly, driver=driver, format=format
        )

    @classmethod
    def ram(
        cls, target: str, *, size_kib: int, readonly: bool = False
    ) -> Filesystem:
        """An empty filesystem in memory (tmpfs)."""
        return cls("ram", target, readonly=readonly, size_kib=size_kib)

    def __post_init__(self) -> None:
        check_choice("filesystem type", self.type, _SOURCES)
        _check_target(self.target)
        if self.target == "/" and self.type not in ROOT_TYPES:
            refuse("root filesystem of type", self.type, "libvirt has none")
        self._check_source()
        self._check_image()

    def _check_source(self) -> None:
        what = f"source of filesystem {self.target}"
        if self.type == "ram":
            if self.source is not None:
                refuse(what, self.source, "memory has no source")
            check_number(
                f"size of filesystem {self.target}",
                self.size_kib or 0,
                1,
                _MAX_KIB,
            )
            return
        if self.size_kib is not None:
            refuse(
                f"size of filesystem {self.target}",
                self.size_kib,
                "only a filesystem in memory has one",
            )
        check_path(what, self.source or "")

    def _check_image(self) -> None:
        if self.type != "file":
            if self.driver is not None or self.format is not None:
                refuse("filesystem type", self.type, "has no driver, format")
            return
        check_choice("filesystem driver", self.driver or "", _DRIVERS)
        check_choice("image format", self.format or "", _FORMATS)
        if self.driver == "loop" and self.format != "raw":
            refuse(
                "image format",
                self.format,
                "driver loop reads only raw; take driver nbd",
            )

    def to_element(self) -> etree._Element:
        """``<filesystem>``."""
        element = etree.Element("filesystem", type=self.type)
        if self.driver and self.format:
            etree.SubElement(
                element, "driver", type=self.driver, format=self.format
            )
        source = etree.SubElement(element, "source")
        if self.source is None:
            source.set("usage", str(self.size_kib))
            source.set("units", "KiB")
        else:
            source.set(_SOURCES[self.type], self.source)
        etree.SubElement(element, "target", dir=self.target)
        if self.readonly:
            etree.SubElement(element, "readonly")
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> Filesystem:
        """Read ``<filesystem>``.

        :raises DomainXmlError: if LXC could not mount it.
        """
        kind = type_of(element)
        check_choice("filesystem type", kind, _SOURCES)
        source = element.find("source")
        if source is None:
            raise DomainXmlError("<filesystem> has no <source>")
        amount = attribute(source, _SOURCES[kind])
        in_memory = kind == "ram"
        driver, image_format = _image_of(element, kind)
        return cls(
            kind,
            target_of(element) or "",
            None if in_memory else amount,
            readonly=element.find("readonly") is not None,
            size_kib=scaled_kib(source, amount, source.get("units"))
            if in_memory
            else None,
            driver=driver,
            format=image_format,
        )


def _check_target(target: str) -> None:
    what = "filesystem target"
    check_path(what, target)
    names = target.split("/")[1:]
    if target != "/" and {"", ".", ".."} & set(names):
        refuse(what, target, "has an empty, '.' or '..' part")
    if is_reserved(target):
        refuse(what, target, "libvirt has a mount of its own there")


def _image_of(
    element: etree._Element, kind: str
) -> tuple[str | None, str | None]:
    # libvirt shows a driver for every type; only files have one that LXC
    # heeds, loop for raw images by default and nbd for the others.
    if kind != "file":
        return None, None
    image_format = child(element, "driver", "format") or "raw"
    default = "loop" if image_format == "raw" else "nbd"
    return child(element, "driver", "type") or default, image_format


def userns_problems(kind: str, target: str, readonly: bool) -> Iterator[str]:
    """Why a filesystem does not go with ID maps.

    Files and block devices are mounted by the container itself, in its user
    namespace, where the kernel lets nobody mount a disk (EACCES or EPERM).

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
    """The type of a ``<filesystem>``, which libvirt takes to be mount."""
    return str(element.get("type", "mount"))


def target_of(element: etree._Element) -> str | None:
    """Where a ``<filesystem>`` is in the container."""
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


def read_filesystems(domain: etree._Element) -> tuple[Filesystem, ...]:
    """All filesystems of a ``<domain>``, in its order."""
    return tuple(
        Filesystem.from_element(element)
        for element in domain.iterfind("devices/filesystem")
    )


def is_reserved(target: str) -> bool:
    """Return whether libvirt has a mount of its own at a target.

    :param target: absolute path without ``.``, ``..`` and empty parts.
    """
    return target in _RESERVED or any(
        f"{target}/".startswith(f"{tree}/") for tree in _RESERVED_TREES
    )
