# SPDX-License-Identifier: Apache-2.0
"""Parts of a domain that an instance's promise decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from lxc_userns.commands import conversion
from lxc_userns.domain import (
    device,
    features,
    idmaps,
    metadata,
    namespaces,
    promised_filesystems,
    seclabel,
)
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import parse_domain, text_at
from lxc_userns.domain.features import Capabilities
from lxc_userns.domain.filesystem import Filesystem
from lxc_userns.domain.init import environment_problems
from lxc_userns.domain.interface import has_own_network
from lxc_userns.domain.metadata import Marker
from lxc_userns.domain.splice import MISREAD, Editor
from lxc_userns.exceptions import (
    DomainConflictError,
    DomainXmlError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED,
    Device,
)

#: Where libvirt keeps a container unless it is told otherwise.
_DEFAULT_PARTITION = "/machine"
#: What is to be done with a filesystem that was not promised.
_REQUEST = "request it as a volume"
_CONVERT_ANEW = (
    "remove it, or have the container made anew with it: by {}, adding it, "
    "and converting once more, or by container destroy and run"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainParts:
    """All that a domain has to have, and may have, by an instance's promise.

    :param name: name of instance and domain.
    :param uuid: UUID of both.
    :param marker: what is noted in the domain's metadata.
    :param filesystems: the root's first, then in the order in which libvirt
        has to mount them.
    :param id_maps: None in the host's user namespace.
    :param kept_capabilities: names that its root has to have.
    :param dropped_capabilities: names that its root is not to have, beside
        those that libvirt drops by itself.
    :param devices: devices of the host.
    :param host_namespaces: of ``network``, ``ipc`` and ``uts``, those of the
        host that it is in.
    :param security_model: the model of its label; None leaves that to others.
    :param partition: control group above libvirt's; None for any.
    """

    name: str
    uuid: str
    marker: Marker
    filesystems: tuple[Filesystem, ...]
    id_maps: IdMaps | None = None
    kept_capabilities: tuple[str, ...] = ()
    dropped_capabilities: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    host_namespaces: tuple[str, ...] = ()
    security_model: str | None = None
    partition: str | None = None

    @property
    def needs_private_network(self) -> bool:
        """Whether ``<privnet/>`` is a must if there is no ``<interface>``.

        Without either, the container would share the host's network, and
        with ID maps it could not mount ``/sys`` and not start.
        """
        return "network" not in self.host_namespaces

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities that its root may have at most."""
        kept, dropped = self.kept_capabilities, self.dropped_capabilities
        if self.id_maps is None:
            return Capabilities(keep=kept, drop=dropped)
        # libvirt has no name for those from audit_read (37) on: they go with
        # whatever is not named, or not at all.
        named = {*CAPABILITIES} - DROPPED - {*dropped}
        return Capabilities("deny", keep=named | {*kept})


def apply(domain_xml: str, parts: DomainParts) -> str:
    """Give a domain all that its instance was promised.

    :param domain_xml: an LXC domain, from anywhere.
    :returns: the domain's new text, with all else as it was.
    :raises DomainXmlError: if it is no LXC domain.
    :raises DomainConflictError: if it has what contradicts the promise; all
        of it is named.
    """
    edited = _apply(domain_xml, parts)
    # The text was cut by the findings of one parser; libvirt has another.
    if _apply(edited, parts) != edited:
        raise DomainXmlError(MISREAD)
    return edited


def _apply(domain_xml: str, parts: DomainParts) -> str:
    domain = parse_domain(domain_xml)
    editor = Editor(domain_xml, domain)
    conflicts = [
        *_identity(domain, parts, editor),
        *environment_problems(domain),
        *_id_maps(domain, parts, editor),
        *_network(domain, parts),
        *features.conflicts(
            domain,
            parts.capabilities,
            parts.kept_capabilities,
            editor,
            has_privnet=parts.needs_private_network
            and not has_own_network(domain),
        ),
        *_devices(domain, parts, editor),
        *_confinement(domain, parts, editor),
        *namespaces.conflicts(domain, parts.host_namespaces, editor),
        *_partition(domain, parts, editor),
    ]
    if conflicts:
        raise DomainConflictError(parts.name, conflicts)
    metadata.put(domain, parts.marker, editor)
    return editor.to_text()


def _identity(
    domain: etree._Element, parts: DomainParts, editor: Editor
) -> Iterator[str]:
    name, uuid = text_at(domain, "name"), text_at(domain, "uuid")
    if name != parts.name:
        yield (
            f"<name> {shown(name)}: is not the instance's {parts.name!r}; "
            "call apply_to with the XML of its own domain"
        )
    elif uuid is None:
        element = etree.Element("uuid")
        element.text = parts.uuid
        editor.add(element, "name")
    # libvirt reads them with and without hyphens.
    if uuid is not None and _digits(uuid) != _digits(parts.uuid):
        yield (
            f"<uuid> {shown(uuid)}: is not the instance's {parts.uuid!r}; "
            "call apply_to with the XML of its own domain"
        )


def _digits(uuid: str) -> str:
    return uuid.strip().replace("-", "").lower()


def _id_maps(
    domain: etree._Element, parts: DomainParts, editor: Editor
) -> Iterator[str]:
    try:
        found = idmaps.from_domain(domain)
    except DomainXmlError as err:
        yield f"{err}; remove it"
        return
    if found is None or idmaps.have_same_entries(found, parts.id_maps):
        if parts.id_maps is not None:
            idmaps.put(domain, parts.id_maps, editor)
        return
    promised = "none" if parts.id_maps is None else parts.id_maps
    yield f"<idmap> {found}: {promised} was promised; remove it"


def _network(domain: etree._Element, parts: DomainParts) -> Iterator[str]:
    if not parts.needs_private_network and has_own_network(domain):
        yield (
            "<interface> or <privnet/>: the host's network was promised; "
            "remove it"
        )


def _devices(
    domain: etree._Element, parts: DomainParts, editor: Editor
) -> Iterator[str]:
    # One with our mark has been defined; others are just made of a request.
    remedy = _REQUEST
    if metadata.is_marked(domain):
        remedy = _CONVERT_ANEW.format(conversion(parts.name, "--revert"))
    yield from promised_filesystems.conflicts(
        domain, parts.filesystems, editor, remedy
    )
    yield from device.conflicts(domain, parts.devices, editor)


def _confinement(
    domain: etree._Element, parts: DomainParts, editor: Editor
) -> Iterator[str]:
    if parts.security_model is not None:
        yield from seclabel.conflicts(domain, parts.security_model, editor)


def _partition(
    domain: etree._Element, parts: DomainParts, editor: Editor
) -> Iterator[str]:
    if parts.partition is None:
        return
    partition = etree.Element("partition")
    partition.text = parts.partition
    present = domain.find("resource/partition")
    if present is None:
        parent = etree.Element("resource")
        editor.add_in(parent, [partition], "vcpu", "memory", "os")
    elif present.text == _DEFAULT_PARTITION:
        editor.replace(present, partition)
    elif present.text != parts.partition:
        yield (
            f"<partition> {shown(present.text)}: its limits hold in "
            f"{parts.partition!r}; remove it"
        )
