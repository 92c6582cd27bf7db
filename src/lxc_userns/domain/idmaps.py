# SPDX-License-Identifier: Apache-2.0
"""ID maps as ``<idmap>``.

The only place for libvirt's words: ``start`` is the first guest ID,
``target`` the first host ID, ``count`` the number of IDs.
"""

from __future__ import annotations

import re

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import attribute, parse_domain
from lxc_userns.domain.splice import Editor
from lxc_userns.exceptions import DomainXmlError, IdMapError
from lxc_userns.idmap import IdMap, IdMapEntry, IdMaps

_KINDS = ("uid", "gid")
#: The attributes, in the order of an entry's fields.
_NUMBERS = ("start", "target", "count")


def to_element(id_maps: IdMaps) -> etree._Element:
    """``<idmap>`` with the entries of both maps, by guest ID.

    libvirt makes the host ID of its first entry the owner of the container's
    devices, so that entry has to be the one with the container's root.
    """
    element = etree.Element("idmap")
    for kind, id_map in (("uid", id_maps.uid), ("gid", id_maps.gid)):
        for entry in sorted(id_map):
            etree.SubElement(
                element,
                kind,
                start=str(entry.guest),
                target=str(entry.host),
                count=str(entry.count),
            )
    return element


def is_element_of(domain: etree._Element, id_maps: IdMaps) -> bool:
    """Return whether a ``<domain>`` has these ID maps, as we would set them.

    libvirt writes them so too, with other quotes.
    """
    try:
        found = from_domain(domain)
    except DomainXmlError:
        return False
    return found is not None and all(
        list(has) == sorted(wanted)
        for has, wanted in ((found.uid, id_maps.uid), (found.gid, id_maps.gid))
    )


def put(domain: etree._Element, id_maps: IdMaps, editor: Editor) -> None:
    """Give a ``<domain>`` these ID maps, in place of all that it has."""
    if is_element_of(domain, id_maps):
        return
    present = domain.findall("idmap")
    if present:
        editor.replace(present[0], to_element(id_maps))
    else:
        editor.add(to_element(id_maps), "os")
    for other in present[1:]:
        editor.remove(other)


def have_same_entries(one: IdMaps, other: IdMaps | None) -> bool:
    """Return whether ID maps are equal but for the order of entries."""
    return other is not None and all(
        sorted(mine) == sorted(theirs)
        for mine, theirs in ((one.uid, other.uid), (one.gid, other.gid))
    )


def from_domain(domain: etree._Element) -> IdMaps | None:
    """Return the ID maps of a ``<domain>``, None if it has no ``<idmap>``.

    :raises DomainXmlError: as :func:`read_id_maps`.
    """
    elements = domain.findall("idmap")
    if not elements:
        return None
    if len(elements) > 1:
        raise DomainXmlError(
            f"domain XML: {len(elements)} <idmap> elements: expected one"
        )
    try:
        return _from_element(elements[0])
    except IdMapError as err:
        raise DomainXmlError(f"<idmap>: {err}") from err


def _from_element(element: etree._Element) -> IdMaps:
    entries: dict[str, list[IdMapEntry]] = {kind: [] for kind in _KINDS}
    for child in element.iterchildren(etree.Element):
        if child.tag not in _KINDS:
            raise DomainXmlError(
                f"<idmap>: element {shown(child.tag)}: expected uid or gid"
            )
        entries[child.tag].append(_entry(child))
    for kind in _KINDS:
        if not entries[kind]:
            raise DomainXmlError(
                f"<idmap>: no <{kind}> entry; without entries of both kinds "
                "libvirt starts no user namespace, or does not start at all"
            )
    uid, gid = (IdMap(tuple(entries[kind])) for kind in _KINDS)
    return IdMaps(uid=uid, gid=gid)


def _entry(element: etree._Element) -> IdMapEntry:
    numbers = [attribute(element, name) for name in _NUMBERS]
    for name, number in zip(_NUMBERS, numbers, strict=True):
        if not re.fullmatch("0|[1-9][0-9]{0,9}", number):
            raise DomainXmlError(
                f"<idmap>: {element.tag} {name} {shown(number)}: expected a "
                "decimal number without sign, blanks or leading zeros"
            )
    return IdMapEntry(*map(int, numbers))


def read_id_maps(domain_xml: str) -> IdMaps | None:
    """Read the ID maps of a domain.

    :param domain_xml: an LXC domain, from anywhere.
    :returns: the maps, None if the domain has none and so runs in the
        host's user namespace.
    :raises DomainXmlError: if this is not an LXC domain, or its ``<idmap>``
        is empty, lacks one kind, has anything but well-formed entries in it
        or breaks a rule of :class:`~lxc_userns.idmap.IdMaps`.
    """
    return from_domain(parse_domain(domain_xml))


def maps_root(domain_xml: str) -> bool:
    """Tell whether a domain has ID maps, and none of them to host ID 0.

    :param domain_xml: an LXC domain, as libvirt has written it.
    :raises DomainXmlError: if this is not an LXC domain.
    """
    domain = parse_domain(domain_xml)
    targets = [
        each.get("target")
        for kind in _KINDS
        for each in domain.iterfind(f"idmap/{kind}")
    ]
    return bool(targets) and "0" not in targets
