# SPDX-License-Identifier: Apache-2.0
"""Namespaces taken over from others: ``<lxc:namespace>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import LXC_NAMESPACE
from lxc_userns.domain.splice import Editor

_ELEMENT: Final = f"{{{LXC_NAMESPACE}}}namespace"
#: Namespace, by the local name of its element.
KINDS: Final[Mapping[str, str]] = {
    "sharenet": "network",
    "shareipc": "ipc",
    "shareuts": "uts",
}
#: A process in all of the host's namespaces, for as long as it is up.
_HOST: Final = ("pid", "1")


@dataclass(frozen=True, slots=True)
class SharedNamespace:
    """Namespace of others that a container is to be in.

    :param element: its element.
    :param kind: ``network``, ``ipc`` or ``uts``; the element's name if
        libvirt has none of that name.
    :param by: ``name`` of a domain, ``pid`` of a process, or ``netns``.
    :param value: the name or number.
    """

    element: etree._Element
    kind: str
    by: str | None
    value: str | None

    @property
    def is_hosts(self) -> bool:
        """Whether it is the host's."""
        return (self.by, self.value) == _HOST

    def __str__(self) -> str:
        name = etree.QName(self.element).localname
        return f"<lxc:{name}> {self.by} {shown(self.value)}"


def read_shared(domain: etree._Element) -> Iterator[SharedNamespace]:
    """Yield the namespaces that a ``<domain>`` shares, in libvirt's eyes."""
    for element in domain.iterfind(f"{_ELEMENT}/*"):
        name = etree.QName(element).localname
        yield SharedNamespace(
            element,
            KINDS.get(name, name),
            element.get("type"),
            element.get("value"),
        )


def shares_namespaces(domain: etree._Element) -> bool:
    """Return whether a ``<domain>`` shares any namespace."""
    return any(len(element) for element in domain.iterfind(_ELEMENT))


def conflicts(
    domain: etree._Element, promised: tuple[str, ...], editor: Editor
) -> Iterator[str]:
    """Give a ``<domain>`` the host's namespaces; yield others that it has.

    :param promised: ``network``, ``ipc``, ``uts``. In the host's network it
        is without an element.
    """
    found = set()
    for shared in read_shared(domain):
        found.add(shared.kind)
        if shared.kind not in promised or not shared.is_hosts:
            yield f"{shared}: was not promised; remove it"
    missing = [
        _to_element(tag)
        for tag, kind in KINDS.items()
        if kind != "network" and kind in {*promised} - found
    ]
    if missing:
        parent = etree.Element(_ELEMENT, nsmap={"lxc": LXC_NAMESPACE})
        editor.add_in(parent, missing, "devices", "os")


def _to_element(tag: str) -> etree._Element:
    by, value = _HOST
    return etree.Element(
        f"{{{LXC_NAMESPACE}}}{tag}",
        nsmap={"lxc": LXC_NAMESPACE},
        type=by,
        value=value,
    )
