# SPDX-License-Identifier: Apache-2.0
"""Confinement by a security module of the kernel: ``<seclabel>``."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import parse_domain
from lxc_userns.domain.splice import Editor
from lxc_userns.spec.requirements import SECURITY_MODELS


def conflicts(
    domain: etree._Element, model: str, editor: Editor
) -> Iterator[str]:
    """Give a ``<domain>`` a label that libvirt makes anew at each start.

    The model is named always: without it libvirt takes the host's first one,
    and where the host has none it silently makes the type ``none``.

    :param model: one of
        :data:`~lxc_userns.spec.requirements.SECURITY_MODELS`.
    """
    ours = etree.Element(
        "seclabel", type="dynamic", model=model, relabel="yes"
    )
    for element in domain.iterfind("seclabel"):
        found = element.get("model")
        if found in (None, model):
            kind = element.get("type", "dynamic")
            if kind != "dynamic":
                yield (
                    f"<seclabel> of type {shown(kind)}, model {found}: "
                    "'dynamic' was promised; correct it, or remove it"
                )
            elif found is None:
                editor.replace(element, ours)
            return
    editor.add(ours, "devices", "os")


def is_cleared(domain_xml: str) -> bool:
    """Return whether a domain has a label that is to be made by any model.

    libvirt takes model and label from a dynamic one when a container ends. One
    that reboots itself may be started again with what is left, in which case
    libvirt makes a label by the host's first model.

    :param domain_xml: as libvirt gives it to its hook.
    :raises DomainXmlError: if it is no LXC domain.
    """
    labels = parse_domain(domain_xml).findall("seclabel")
    are_dynamic = all(
        each.get("type", "dynamic") == "dynamic" for each in labels
    )
    return are_dynamic and any(each.get("model") is None for each in labels)


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
