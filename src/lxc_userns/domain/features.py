# SPDX-License-Identifier: Apache-2.0
"""Capabilities and other freedoms of a container: ``<features>``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import check_choice, refuse
from lxc_userns.domain.document import attribute
from lxc_userns.domain.splice import Editor
from lxc_userns.spec.requirements import CAPABILITIES

_POLICIES: Final = frozenset({"default", "allow", "deny"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Which capabilities (:manpage:`capabilities(7)`) init may have.

    :param policy: ``default``: all but ``mknod``, ``sys_module``,
        ``sys_time``, ``audit_control``, ``mac_admin`` and, where the kernel
        cannot reboot a container, ``sys_boot``; ``allow``: all; ``deny``:
        none.
    :param keep: names to have although the policy would drop them, without
        ``CAP_`` and in small letters.
    :param drop: names to drop although the policy would keep them.
    :raises DomainXmlError: for a name or policy that libvirt does not know.
    """

    policy: str = "default"
    keep: Collection[str] = ()
    drop: Collection[str] = ()

    def __post_init__(self) -> None:
        check_choice("capabilities policy", self.policy, _POLICIES)
        for name in ("keep", "drop"):
            names = getattr(self, name)
            if isinstance(names, str):
                refuse("capabilities", names, "a collection is expected")
            object.__setattr__(self, name, frozenset(names))
            for capability in names:
                check_choice("capability", capability, CAPABILITIES)
        both = sorted(frozenset(self.keep) & frozenset(self.drop))
        if both:
            refuse("capabilities", both, "cannot be both kept and dropped")

    def to_element(self) -> etree._Element:
        """``<capabilities>``."""
        element = etree.Element("capabilities", policy=self.policy)
        for name in sorted([*self.keep, *self.drop]):
            state = "on" if name in self.keep else "off"
            etree.SubElement(element, name, state=state)
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> Capabilities:
        """Read ``<capabilities>``."""
        states: dict[str, list[str]] = {"on": [], "off": []}
        for capability in element.iterchildren(etree.Element):
            state = attribute(capability, "state")
            check_choice("state of a capability", state, states)
            states[state].append(capability.tag)
        return cls(attribute(element, "policy"), states["on"], states["off"])


@dataclass(frozen=True, slots=True)
class Features:
    """Features of a container.

    :param privnet: a network of its own even without interfaces. Without it
        and without an interface the container is in the host's network: it
        sees its devices, binds its ports and reaches its abstract sockets
        (drvlxc, "Network isolation").
    :param capabilities: what its root may do.
    """

    privnet: bool = True
    capabilities: Capabilities = field(default_factory=Capabilities)

    def to_element(self) -> etree._Element | None:
        """``<features>``, None if there is nothing to say."""
        element = etree.Element("features")
        if self.privnet:
            etree.SubElement(element, "privnet")
        if self.capabilities != Capabilities():
            element.append(self.capabilities.to_element())
        return element if len(element) else None

    @classmethod
    def from_domain(cls, domain: etree._Element) -> Features:
        """Read ``<features>`` of a ``<domain>``."""
        capabilities = domain.find("features/capabilities")
        return cls(
            privnet=domain.find("features/privnet") is not None,
            capabilities=Capabilities()
            if capabilities is None
            else Capabilities.from_element(capabilities),
        )


def put(
    domain: etree._Element, elements: Iterable[etree._Element], editor: Editor
) -> None:
    """Give a ``<domain>`` more in its ``<features>``."""
    present = domain.find("features")
    if present is not None:
        for element in elements:
            editor.prepend(present, element)
        return
    features = etree.Element("features")
    features.extend(elements)
    # After ID maps, which come after <os> where there are none yet.
    after = domain.find("idmap")
    editor.insert_after(
        domain.find("os") if after is None else after, features
    )
