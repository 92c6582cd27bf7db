# SPDX-License-Identifier: Apache-2.0
"""Rules about what a container may do, and what is done for it as root."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

from lxml import etree

from lxc_userns.audit.finding import Rule, Violation
from lxc_userns.audit.paths import normalised
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import LXC_NAMESPACE, child, children
from lxc_userns.domain.filesystem import is_within
from lxc_userns.findings import Severity
from lxc_userns.spec.requirements import DROPPED

CAPABILITIES_ALLOWED: Final = Rule(
    "capabilities-allowed",
    Severity.HIGH,
    "all capabilities are kept",
    "With the policy 'allow' libvirt drops no capability, not even those that "
    "concern the whole host: making device nodes, loading modules, setting "
    "the clock. Only a user namespace is left between them and the host.",
    "take the policy 'default', and switch on what is needed",
)
CAPABILITY_ON: Final = Rule(
    "capability-on",
    Severity.HIGH,
    "a capability over the whole host is switched on",
    "The kernel checks it against the host and not against the container's "
    "namespaces: without ID maps it is power over the host, and with them it "
    "is of no use.",
    "remove it",
)
HOST_DEVICE: Final = Rule(
    "host-device",
    Severity.HIGH,
    "a device of the host",
    "The container's root can read and write the device, also past the "
    "filesystem on it, and drivers trust who may open it. libvirt makes it "
    "belong to the mapped root.",
    "mount what is on it on the host, or use an <interface> of another type",
)
NO_SECLABEL: Final = Rule(
    "no-seclabel",
    Severity.WARN,
    "no SELinux or AppArmor confinement",
    "The domain asks for none, so that it depends on the host's settings "
    "whether there is a second wall behind the user namespace.",
    "add <seclabel type='dynamic'/> where the host has SELinux or AppArmor",
)
MARKUP: Final = Rule(
    "markup-in-value",
    Severity.HIGH,
    "a value that becomes markup",
    "libvirt (virDomainDefFormat, 9.0.0) writes this value without escaping "
    "it: what looks like an element in it is one when the domain is read "
    "again and started, an entry of <idmap> for one.",
    "leave out '<', '&' and quotes, and set it in the container",
)
EMULATOR: Final = Rule(
    "foreign-emulator",
    Severity.HIGH,
    "a controller that is not libvirt's",
    "libvirt runs <emulator> as root of the host, outside of the container, "
    "to start it.",
    "remove <emulator>: libvirt knows its own",
)
RULES: Final = (
    CAPABILITIES_ALLOWED,
    CAPABILITY_ON,
    HOST_DEVICE,
    NO_SECLABEL,
    MARKUP,
    EMULATOR,
)

_DANGEROUS: Final = DROPPED | {"mac_override", "sys_rawio"}
_UNCONFINED: Final = ("unconfined", ":unconfined_t:")
_EMULATOR: Final = "libvirt_lxc"
_EMULATORS: Final = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local/lib",
    "/usr/local/libexec",
)
#: What ends an attribute's value, or begins markup in it.
_QUOTED: Final = frozenset("<&'\"")
_SHARED: Final = f"{{{LXC_NAMESPACE}}}namespace/*"


def find(domain: etree._Element) -> Iterator[Violation]:
    """Yield all that is wrong with a domain's privileges."""
    for element in children(domain, "features", "capabilities"):
        yield from _capabilities(element)
    yield from _devices(domain)
    yield from _seclabel(domain)
    yield from _markup(domain)
    for element in domain.iterfind("devices/emulator"):
        path = normalised((element.text or "").strip())
        if posixpath.basename(path) != _EMULATOR or not any(
            is_within(path, place) for place in _EMULATORS
        ):
            yield EMULATOR.violation(
                element, f"{shown(path)} would be run as the host's root"
            )


def _capabilities(element: etree._Element) -> Iterator[Violation]:
    states = {
        etree.QName(each).localname: each
        for each in element.iterchildren(etree.Element)
    }
    if element.get("policy") == "allow":
        kept = [
            name
            for name in sorted(DROPPED)
            if name not in states or states[name].get("state") != "off"
        ]
        yield CAPABILITIES_ALLOWED.violation(
            element,
            "the policy 'allow' keeps all capabilities"
            + (f", {', '.join(kept)} among them" if kept else ""),
        )
    for name, capability in states.items():
        if name in _DANGEROUS and capability.get("state") == "on":
            yield CAPABILITY_ON.violation(
                capability, f"the capability {name} is switched on"
            )


def _devices(domain: etree._Element) -> Iterator[Violation]:
    for element in domain.iterfind("devices/hostdev"):
        paths = (each.text for each in element.iterfind("source/*"))
        source = next((text.strip() for text in paths if text), "")
        kind = f"{element.get('mode')} {element.get('type')}"
        yield HOST_DEVICE.violation(
            element,
            f"a device of the host ({kind}) is given to the container"
            + (f": {shown(source)}" if source else ""),
        )
    for element in domain.iterfind("devices/disk"):
        source = child(element, "source", "dev") or (
            child(element, "source", "file") or ""
        )
        yield HOST_DEVICE.violation(
            element, f"the disk {shown(source)} is given to the container"
        )


def _seclabel(domain: etree._Element) -> Iterator[Violation]:
    labels = [
        element
        for element in domain.iterfind("seclabel")
        if element.get("model") != "dac"
    ]
    if not labels:
        yield NO_SECLABEL.violation(
            domain,
            "the domain has no <seclabel>: perhaps nothing confines it",
        )
    for element in labels:
        label = element.findtext("label") or ""
        if element.get("type") == "none":
            yield NO_SECLABEL.violation(
                element, "<seclabel type='none'> leaves it unconfined"
            )
        elif label == _UNCONFINED[0] or _UNCONFINED[1] in label:
            yield NO_SECLABEL.violation(
                element, f"the label {shown(label)} leaves it unconfined"
            )


def _markup(domain: etree._Element) -> Iterator[Violation]:
    for element in domain.iterfind("os/initenv"):
        name, value = element.get("name", ""), element.text or ""
        if "<" in value or "&" in value or "]]>" in value:
            yield MARKUP.violation(
                element,
                f"the environment variable {shown(name)} is {shown(value)}, "
                "which libvirt writes as markup",
            )
        if not _QUOTED.isdisjoint(name):
            yield MARKUP.violation(
                element,
                f"the environment variable's name is {shown(name)}, which "
                "libvirt writes as markup",
            )
    for element in domain.iterfind(_SHARED):
        value = element.get("value", "")
        if not _QUOTED.isdisjoint(value):
            yield MARKUP.violation(
                element,
                f"the value is {shown(value)}, which libvirt writes as markup",
            )
