# SPDX-License-Identifier: Apache-2.0
"""Domain of others, as far as an instance can be made of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from lxml import etree

from lxc_userns.domain.document import parse_domain
from lxc_userns.domain.filesystem import source_of, target_of, type_of
from lxc_userns.domain.metadata import read_marker
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.spec.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Convertible:
    """Domain that is to become an instance.

    :param name: its name.
    :param uuid: its UUID; a new one if it had none.
    :param rootfs: its root filesystem: a directory, image or block device.
    :param volumes: directories and files of the host that it sees besides.
    :param strategy: strategy of the mark that it has; None if it has none.
    """

    name: str
    uuid: str
    rootfs: str
    volumes: tuple[Volume, ...]
    strategy: str | None = None


def read_convertible(domain_xml: str) -> Convertible:
    """Read what is to be converted; for one that has our mark, from that.

    Everything else that a domain has is left to what applies an instance to
    it, which refuses what a user namespace does not go with.

    :raises DomainXmlError: if this is not an LXC domain, or it has no name or
        no root filesystem.
    :raises VolumeError: if a filesystem of it cannot be a volume.
    """
    domain = parse_domain(domain_xml)
    marker = read_marker(domain_xml)
    name = domain.findtext("name")
    if not name:
        raise DomainXmlError("domain XML: has no <name>; add it")
    identifier = domain.findtext("uuid") or str(uuid.uuid4())
    if marker is not None:
        return Convertible(
            name=name,
            uuid=identifier.strip(),
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
    return Convertible(
        name=name,
        uuid=identifier.strip(),
        rootfs=source_of(roots[0]) or "",
        volumes=tuple(
            _to_volume(each) for each in mounted if target_of(each) != "/"
        ),
    )


def _to_volume(element: etree._Element) -> Volume:
    return Volume(
        source_of(element) or "",
        target_of(element) or "",
        readonly=element.find("readonly") is not None,
    )
