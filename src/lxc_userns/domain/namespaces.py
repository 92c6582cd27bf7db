# SPDX-License-Identifier: Apache-2.0
"""Namespaces taken over from others: ``<lxc:namespace>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import check_choice, check_match
from lxc_userns.domain.document import LXC_NAMESPACE, attribute

_ELEMENT: Final = f"{{{LXC_NAMESPACE}}}namespace"
_KINDS: Final = {"net": "sharenet", "ipc": "shareipc", "uts": "shareuts"}
# libvirt writes the value into its XML without escaping it (9.0.0), so there
# are no quotes or markup in it.
_VALUES: Final = {
    "name": (r"[\w.:@+ -]+", "the name of a domain"),
    "pid": ("[1-9][0-9]*", "the ID of a process"),
    "netns": (r"(?!\.{1,2}$)[\w.:@+-]+", "a name below /run/netns"),
}


@dataclass(frozen=True, slots=True)
class SharedNamespace:
    """A namespace that is there already.

    :param by: ``name`` of a running LXC domain, ``pid`` of a process, or
        ``netns``, a name that :command:`ip netns` gave, for networks only.
    :param value: the name or number.
    :raises DomainXmlError: if the value is not of that form.
    """

    by: str
    value: str

    def __post_init__(self) -> None:
        check_choice("kind of shared namespace", self.by, _VALUES)
        check_match("shared namespace", self.value, *_VALUES[self.by])


@dataclass(frozen=True, slots=True)
class SharedNamespaces:
    """Namespaces that a container shares; never together with ID maps.

    With ID maps libvirt would enter them from within the new user namespace,
    which may not: the container does not start.

    :param net: network namespace; excludes interfaces and ``privnet``.
    :param ipc: System V IPC and message queues.
    :param uts: host name. libvirt sets it to the domain's name even so.
    :raises DomainXmlError: for ``netns`` where it is not a network.
    """

    net: SharedNamespace | None = None
    ipc: SharedNamespace | None = None
    uts: SharedNamespace | None = None

    def __post_init__(self) -> None:
        for shared in (self.ipc, self.uts):
            if shared is not None:
                check_choice(
                    "kind of shared namespace", shared.by, ("name", "pid")
                )

    def __bool__(self) -> bool:
        return any((self.net, self.ipc, self.uts))

    def to_element(self) -> etree._Element:
        """``<lxc:namespace>``."""
        element = etree.Element(_ELEMENT, nsmap={"lxc": LXC_NAMESPACE})
        for kind, tag in _KINDS.items():
            shared = getattr(self, kind)
            if shared is not None:
                etree.SubElement(
                    element,
                    f"{{{LXC_NAMESPACE}}}{tag}",
                    type=shared.by,
                    value=shared.value,
                )
        return element

    @classmethod
    def from_domain(cls, domain: etree._Element) -> SharedNamespaces:
        """Read ``<lxc:namespace>`` of a ``<domain>``."""
        return cls(
            **{
                kind: SharedNamespace(
                    attribute(element, "type"), attribute(element, "value")
                )
                for kind, tag in _KINDS.items()
                if (
                    element := domain.find(
                        f"{_ELEMENT}/{{{LXC_NAMESPACE}}}{tag}"
                    )
                )
                is not None
            }
        )


def shares_namespaces(domain: etree._Element) -> bool:
    """Whether a ``<domain>`` shares any namespace, in libvirt's eyes."""
    return any(len(element) for element in domain.iterfind(_ELEMENT))
