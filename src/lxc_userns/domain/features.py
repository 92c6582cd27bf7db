# SPDX-License-Identifier: Apache-2.0
"""Capabilities and other freedoms of a container: ``<features>``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import check_choice, refuse, shown
from lxc_userns.domain.document import attribute, children
from lxc_userns.domain.splice import Editor
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.spec.requirements import CAPABILITIES, DROPPED

_POLICIES: Final = frozenset({"default", "allow", "deny"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities (:manpage:`capabilities(7)`) that init may have.

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
        """Return ``<capabilities>``."""
        element = etree.Element("capabilities", policy=self.policy)
        for name in sorted([*self.keep, *self.drop]):
            state = "on" if name in self.keep else "off"
            etree.SubElement(element, name, state=state)
        return element

    @property
    def allowed(self) -> frozenset[str]:
        """Names of those that init may have."""
        allowed = {
            "default": {*CAPABILITIES} - DROPPED,
            "allow": {*CAPABILITIES},
            "deny": set[str](),
        }[self.policy]
        return frozenset((allowed | {*self.keep}) - {*self.drop})

    @classmethod
    def from_domain(cls, domain: etree._Element) -> Capabilities:
        """Read those of a ``<domain>``."""
        element = domain.find("features/capabilities")
        return cls() if element is None else cls.from_element(element)

    @classmethod
    def from_element(cls, element: etree._Element) -> Capabilities:
        """Read ``<capabilities>``."""
        states: dict[str, list[str]] = {"on": [], "off": []}
        for capability in element.iterchildren(etree.Element):
            state = attribute(capability, "state")
            check_choice("state of a capability", state, states)
            states[state].append(capability.tag)
        return cls(attribute(element, "policy"), states["on"], states["off"])


def conflicts(
    domain: etree._Element,
    promised: Capabilities,
    required: Collection[str],
    editor: Editor,
    *,
    has_privnet: bool,
) -> Iterator[str]:
    """Give a ``<domain>`` capabilities and, if wanted, ``<privnet/>``.

    Capabilities that it has are left if they are a part of those promised.

    :param promised: what its root may have at most.
    :param required: names that its root has to have.
    """
    missing = [etree.Element("privnet")] if has_privnet else []
    present = [*children(domain, "features", "capabilities")]
    if len(present) > 1:
        yield "<capabilities>: is there twice; leave one"
    elif not present:
        if promised != Capabilities():
            missing.append(promised.to_element())
    elif _says_nothing(present[0]) and promised != Capabilities():
        editor.replace(present[0], promised.to_element())
    else:
        yield from _excess(present[0], promised, required)
    if missing:
        put(missing, editor)


def _says_nothing(element: etree._Element) -> bool:
    return element.get("policy") == "default" and not len(element)


def _excess(
    element: etree._Element, promised: Capabilities, required: Collection[str]
) -> Iterator[str]:
    try:
        found = Capabilities.from_element(element)
    except DomainXmlError as err:
        yield f"<capabilities>: {err}"
        return
    what = f"<capabilities> of policy {shown(found.policy)}"
    more = sorted(found.allowed - promised.allowed)
    less = sorted({*required} - found.allowed)
    if more:
        yield f"{what}: keeps {', '.join(more)}, not promised; remove it"
    elif promised.policy == "deny" != found.policy:
        yield (
            f"{what}: keeps those that libvirt has no name for; remove it, or "
            "take the policy 'deny'"
        )
    if less:
        yield f"{what}: drops {', '.join(less)}, promised; remove it"


def put(elements: Iterable[etree._Element], editor: Editor) -> None:
    """Put elements into ``<features>``."""
    # After ID maps, which come after <os> where there are none yet.
    editor.add_in(etree.Element("features"), elements, "idmap", "os")
