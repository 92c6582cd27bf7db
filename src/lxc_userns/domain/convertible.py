# SPDX-License-Identifier: Apache-2.0
"""Domain of others, as far as an instance can be made of it."""

from __future__ import annotations

import shlex
import uuid
from contextlib import suppress
from dataclasses import dataclass

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import child, parse_domain
from lxc_userns.domain.filesystem import (
    source_of,
    target_of,
    type_of,
    userns_problems,
)
from lxc_userns.domain.metadata import read_marker
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.spec.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Convertible:
    """Domain that is to become an instance.

    :param name: its name.
    :param uuid: its UUID in the usual form; None if it has none yet.
    :param rootfs: its root filesystem: a directory, image or block device.
    :param volumes: directories and files of the host that it sees besides.
    :param strategy: strategy of the mark that it has; None if it has none.
    """

    name: str
    uuid: str | None
    rootfs: str
    volumes: tuple[Volume, ...]
    strategy: str | None = None


def read_convertible(domain_xml: str) -> Convertible:
    """Read what is to be converted; for one that has our mark, from that.

    Everything else that a domain has is left to what applies an instance to
    it, which refuses what a user namespace does not go with.

    :raises DomainXmlError: if this is not an LXC domain, or it has no name or
        no root filesystem, a relative source, an image that is not its root
        filesystem, or one that is not raw.
    :raises VolumeError: if a filesystem of it cannot be a volume.
    """
    domain = parse_domain(domain_xml)
    marker = read_marker(domain_xml)
    name = domain.findtext("name")
    if not name:
        raise DomainXmlError("domain XML: has no <name>; add it")
    identifier = _read_uuid(domain)
    if marker is not None:
        return Convertible(
            name=name,
            uuid=identifier,
            rootfs=marker.rootfs,
            volumes=marker.volumes,
            strategy=marker.strategy,
        )
    mounted = [
        each
        for each in domain.iterfind("devices/filesystem")
        if type_of(each) in ("mount", "file", "block")
    ]
    roots = [each for each in mounted if target_of(each) == "/"]
    if len(roots) != 1 or not source_of(roots[0]):
        raise DomainXmlError(
            f"domain {name}: expected one <filesystem> with the target '/' "
            f"and a source, found {len(roots)}; correct it"
        )
    _check_absolute(name, mounted)
    _check_format(name, roots[0])
    return Convertible(
        name=name,
        uuid=identifier,
        rootfs=source_of(roots[0]) or "",
        volumes=_read_volumes(name, mounted),
    )


def _read_uuid(domain: etree._Element) -> str | None:
    text = (domain.findtext("uuid") or "").strip()
    # libvirt takes it in capitals, and without hyphens, too.
    with suppress(ValueError):
        return str(uuid.UUID(text))
    return text or None


def _check_absolute(name: str, filesystems: list[etree._Element]) -> None:
    """Refuse sources that are other files for libvirtd than for its users."""
    sources = (source_of(each) or "/" for each in filesystems)
    relative = [shown(each) for each in sources if not each.startswith("/")]
    if relative:
        raise DomainXmlError(
            f"domain {name}: <source> {', '.join(relative)}: would be looked "
            "for in libvirtd's own working directory; give an absolute path"
        )


def _check_format(name: str, root: etree._Element) -> None:
    """Refuse an image that libvirt has a program of its own read for it."""
    kind = child(root, "driver", "format")
    if kind in (None, "raw"):
        return
    source = source_of(root) or ""
    words = ("qemu-img", "convert", "-f", kind, "-O", "raw", source)
    raise DomainXmlError(
        f"domain {name}: its root filesystem has the format {shown(kind)}, "
        "which the kernel does not mount; convert it, and name what comes of "
        f"it, without <driver>: {shlex.join([*words, f'{source}.raw'])}"
    )


def _read_volumes(
    name: str, filesystems: list[etree._Element]
) -> tuple[Volume, ...]:
    """Return what a domain sees of the host besides its root filesystem."""
    others = [each for each in filesystems if target_of(each) != "/"]
    # A volume is made read-only by its mount; an image would be a file.
    problems = [
        problem
        for each in others
        for problem in userns_problems(
            type_of(each), target_of(each) or "", False
        )
    ]
    if problems:
        raise DomainXmlError(f"domain {name}: {'; '.join(problems)}")
    return tuple(map(_to_volume, others))


def _to_volume(element: etree._Element) -> Volume:
    return Volume(
        source_of(element) or "",
        target_of(element) or "",
        readonly=element.find("readonly") is not None,
    )
