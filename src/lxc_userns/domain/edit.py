# SPDX-License-Identifier: Apache-2.0
"""ID maps for domain XML that somebody else made."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from lxml import etree

from lxc_userns.arguments import checked
from lxc_userns.domain import features, idmaps
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import parse_domain
from lxc_userns.domain.filesystem import (
    ROOT_TYPES,
    source_of,
    target_of,
    type_of,
    userns_problems,
)
from lxc_userns.domain.init import environment_problems
from lxc_userns.domain.interface import has_own_network
from lxc_userns.domain.namespaces import shares_namespaces
from lxc_userns.domain.splice import MISREAD, Editor
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps


@checked(domain_xml=str, id_maps=IdMaps)
def add_id_maps(domain_xml: str, id_maps: IdMaps) -> str:
    """Give a domain these ID maps, in place of any that it has.

    A domain without an interface is given ``<privnet/>`` too: in the host's
    network namespace a container with ID maps cannot start. All the rest is
    kept byte for byte, and doing it twice is doing it once.

    This looks at nothing but its arguments. Whether users or leases of the
    host hold some of the host IDs was asked for maps that come from
    :func:`~lxc_userns.load_id_maps` or
    :class:`~lxc_userns.UserNamespaceManager`; of maps that you have made
    yourself ask :func:`lxc_userns.config.settings.check_held` before you start
    anything.

    :param domain_xml: an LXC domain, from anywhere.
    :param id_maps: what it is to have.
    :returns: the domain's new text.
    :raises DomainXmlError: if this is not an LXC domain, or one that cannot
        run, or not safely, in a user namespace; the text names every reason.
    """
    domain = parse_domain(domain_xml)
    problems = list(_problems(domain))
    if problems:
        raise DomainXmlError(f"domain XML: {'; '.join(problems)}")
    edited = _edit(domain_xml, domain, id_maps)
    # The text was cut by the findings of one parser; libvirt has another.
    found = idmaps.read_id_maps(edited)
    if found is None or not idmaps.have_same_entries(found, id_maps):
        raise DomainXmlError(MISREAD)
    return edited


def _edit(domain_xml: str, domain: etree._Element, id_maps: IdMaps) -> str:
    editor = Editor(domain_xml, domain)
    idmaps.put(domain, id_maps, editor)
    if not has_own_network(domain):
        features.put([etree.Element("privnet")], editor)
    return editor.to_text()


def _problems(domain: etree._Element) -> Iterator[str]:
    roots: list[etree._Element] = []
    for element in domain.iterfind("devices/filesystem"):
        kind, target = type_of(element), target_of(element)
        readonly = element.find("readonly") is not None
        yield from userns_problems(kind, target or "", readonly)
        if target == "/":
            roots.append(element)
    if not roots:
        yield (
            "no filesystem has the target '/' (exactly so), so the "
            "container's root would be the host's, where the mapped root may "
            "do nothing; add one"
        )
    elif len(roots) > 1:
        yield "several filesystems have the target '/', libvirt takes one"
    else:
        yield from _root_problems(roots[0])
    if shares_namespaces(domain):
        yield (
            "it shares namespaces (<lxc:namespace>), which a user namespace "
            "has no right to enter"
        )
    yield from environment_problems(domain)


def _root_problems(element: etree._Element) -> Iterator[str]:
    kind, source = type_of(element), source_of(element)
    if kind not in ROOT_TYPES:
        yield f"the root filesystem cannot be of type {shown(kind)}"
    elif not source:
        yield "the root filesystem has no source; name its directory"
    elif not source.startswith("/"):
        yield (
            f"the source of the root filesystem {shown(source)} is not an "
            "absolute path"
        )
    # Two slashes at the beginning are kept by normpath(), as POSIX has it.
    elif posixpath.normpath(source).strip("/") == "":
        yield (
            f"the source of the root filesystem is {shown(source)}, so the "
            "container's root would be the host's, where the mapped root may "
            "do nothing; name a directory of its own"
        )
