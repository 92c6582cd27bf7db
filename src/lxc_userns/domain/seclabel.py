# SPDX-License-Identifier: Apache-2.0
"""Confinement by a security module of the kernel: ``<seclabel>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import (
    check_choice,
    check_label,
    check_match,
    refuse,
)
from lxc_userns.domain.document import attribute, text_at
from lxc_userns.spec.requirements import SECURITY_MODELS

_TYPES: Final = frozenset({"dynamic", "static", "none"})


@dataclass(frozen=True, slots=True)
class SecLabel:
    """A security label; made by a method named like its type.

    :param type: ``dynamic``, ``static`` or ``none``.
    :param model: ``apparmor``, ``selinux``, ``dac``. Always named: without
        it libvirt takes the host's first one, and where the host has none it
        silently makes the type ``none``.
    :param label: label of the container's processes for ``static``; what to
        derive one from (``<baselabel>``), or None, for ``dynamic``.
    :param relabel: whether libvirt labels the files too.
    :raises DomainXmlError: for a combination that libvirt refuses.
    """

    type: str
    model: str
    label: str | None = None
    relabel: bool = True

    @classmethod
    def dynamic(cls, model: str, base: str | None = None) -> SecLabel:
        """Return a label that libvirt makes anew for each container."""
        return cls("dynamic", model, base)

    @classmethod
    def static(
        cls, model: str, label: str, *, relabel: bool = False
    ) -> SecLabel:
        """Use this very label."""
        return cls("static", model, label, relabel)

    @classmethod
    def none(cls, model: str) -> SecLabel:
        """Do not confine by this model."""
        return cls("none", model, relabel=False)

    def __post_init__(self) -> None:
        check_choice("seclabel type", self.type, _TYPES)
        check_match("seclabel model", self.model, "[a-z0-9_-]+", "a name")
        if self.label is not None:
            check_label("seclabel label", self.label)
        if (self.type == "static" and self.label is None) or (
            self.type == "none" and self.label is not None
        ):
            refuse(
                "seclabel type",
                self.type,
                "a static one has a label, one of type none has not",
            )
        if self.type != "static" and self.relabel != (self.type == "dynamic"):
            refuse(
                "seclabel type",
                self.type,
                "a dynamic one relabels, one of type none does not",
            )

    def to_element(self) -> etree._Element:
        """``<seclabel>``."""
        element = etree.Element("seclabel", type=self.type, model=self.model)
        if self.type != "none":
            element.set("relabel", "yes" if self.relabel else "no")
        if self.label is not None:
            tag = "label" if self.type == "static" else "baselabel"
            etree.SubElement(element, tag).text = self.label
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> SecLabel:
        """Read ``<seclabel>``."""
        kind = str(element.get("type", "dynamic"))
        tag = "label" if kind == "static" else "baselabel"
        default = "yes" if kind == "dynamic" else "no"
        return cls(
            kind,
            attribute(element, "model"),
            text_at(element, tag),
            element.get("relabel", default) == "yes",
        )


def parse_models(capabilities: str) -> tuple[str, ...]:
    """Return the security modules by which libvirtd can confine containers.

    :param capabilities: libvirt's XML of what it can do.
    :returns: some of
        :data:`~lxc_userns.spec.requirements.SECURITY_MODELS`, one or none as
        a rule.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    root = etree.fromstring(capabilities, parser)
    found = (
        model.text or "" for model in root.iterfind("host/secmodel/model")
    )
    return tuple(name for name in found if name in SECURITY_MODELS)
