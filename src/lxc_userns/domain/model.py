# SPDX-License-Identifier: Apache-2.0
"""A whole container: ``<domain type='lxc'>``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from lxml import etree

from lxc_userns.domain import device, idmaps, metadata
from lxc_userns.domain.checks import (
    check_label,
    check_match,
    check_number,
    check_path,
    refuse,
    shown,
)
from lxc_userns.domain.document import (
    memory_mib,
    number_of,
    parse_domain,
    serialise,
    text_at,
    text_of,
)
from lxc_userns.domain.features import Features
from lxc_userns.domain.filesystem import (
    Filesystem,
    read_filesystems,
    userns_problems,
)
from lxc_userns.domain.init import Init
from lxc_userns.domain.interface import (
    HostInterface,
    Interface,
    guest_devices,
)
from lxc_userns.domain.namespaces import SharedNamespaces
from lxc_userns.domain.seclabel import SecLabel
from lxc_userns.domain.tuning import MAX_MIB, Tuning
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMaps
from lxc_userns.spec.requirements import Device

_UUID: Final = "[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"
#: The kernel's limit for a host name, which libvirt makes of the name. It is
#: in the path of a socket too, and has to be shorter than 86 bytes for that.
_NAME_LENGTH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A container, as libvirt is to define it.

    Valid as a whole: with ID maps it has a network namespace and a root
    filesystem of its own, and nothing that cannot work, or silently protects
    less, in a user namespace. What libvirt's LXC driver accepts and ignores
    has no word here: among others ``<on_reboot>`` and its like (a reboot
    from inside always starts the container again, a power-off always ends
    it) and a filesystem's ``accessmode`` and ``space_hard_limit``.

    :param name: one line of at most 64 bytes, without ``/``; its letters,
        digits and hyphens become the container's host name.
    :param uuid: libvirt makes one up if None.
    :param memory_mib: memory in MiB that the container may use.
    :param vcpus: number of virtual CPUs, 1 to 65535. LXC notes it but
        enforces nothing; see :attr:`Tuning.cpu_quota_us
        <lxc_userns.domain.Tuning>`.
    :param init: the first process.
    :param filesystems: one with target ``/`` among them, no target twice.
        Kept in the order in which libvirt has to mount them: it unmounts
        all that is below a target first.
    :param id_maps: None runs the container in the host's user namespace.
    :param interfaces: network interfaces, in order.
    :param devices: devices of the host that it may use.
    :param features: a network of its own by default.
    :param consoles: number of terminals, 1 or more.
    :param tuning: limits beside the memory.
    :param seclabels: at most one of a model; none leaves it to the host.
    :param namespaces: namespaces of others; never together with ID maps.
    :param emulator: libvirt's controller program on the host, if not the
        usual one.
    :param metadata: short texts to find again by
        :func:`~lxc_userns.domain.read_metadata`.
    :raises DomainXmlError: naming every rule that is broken.
    """

    name: str
    uuid: str | None = None
    memory_mib: int
    vcpus: int = 1
    init: Init
    filesystems: Sequence[Filesystem]
    id_maps: IdMaps | None = None
    interfaces: Sequence[Interface | HostInterface] = ()
    devices: Sequence[Device] = ()
    features: Features = field(default_factory=Features)
    consoles: int = 1
    tuning: Tuning = field(default_factory=Tuning)
    seclabels: Sequence[SecLabel] = ()
    namespaces: SharedNamespaces = field(default_factory=SharedNamespaces)
    emulator: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("interfaces", "devices", "seclabels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        parents_first = sorted(self.filesystems, key=_depth)
        object.__setattr__(self, "filesystems", tuple(parents_first))
        if isinstance(self.uuid, str):
            object.__setattr__(self, "uuid", self.uuid.lower())
        items = MappingProxyType(dict(self.metadata))
        object.__setattr__(self, "metadata", items)
        self._check_values()
        problems = [
            *self._root_problems(),
            *self._userns_problems(),
            *self._network_problems(),
            *self._other_problems(),
        ]
        if problems:
            raise DomainXmlError(
                f"domain {shown(self.name)}: {'; '.join(problems)}"
            )

    def _check_values(self) -> None:
        check_label("domain name", self.name)
        if "/" in self.name or self.name != self.name.strip():
            refuse("domain name", self.name, "has '/' or outer blanks")
        if len(self.name.encode()) > _NAME_LENGTH:
            refuse("domain name", self.name, f"more than {_NAME_LENGTH} bytes")
        if self.uuid is not None:
            check_match("domain UUID", self.uuid, _UUID, "a UUID")
        check_number("memory in MiB", self.memory_mib, 1, MAX_MIB)
        check_number("number of virtual CPUs", self.vcpus, 1, 2**16 - 1)
        check_number("number of consoles", self.consoles, 1, 1024)
        if self.emulator is not None:
            check_path("emulator", self.emulator)
        metadata.check_metadata(self.metadata)

    def _root_problems(self) -> Iterator[str]:
        targets = [filesystem.target for filesystem in self.filesystems]
        if "/" not in targets:
            yield (
                "no filesystem has the target '/', so the container's root "
                "would be the host's; add one"
            )
        yield from _twice("filesystems with the target", targets)

    def _userns_problems(self) -> Iterator[str]:
        if self.id_maps is None:
            return
        for filesystem in self.filesystems:
            yield from userns_problems(
                filesystem.type, filesystem.target, filesystem.readonly
            )
        if not (self.features.privnet or self.interfaces):
            yield (
                "with ID maps the container needs a network namespace; add "
                "an interface or features.privnet"
            )
        if self.namespaces:
            yield (
                "with ID maps no namespace can be shared: the container's "
                "user namespace has no right to enter it"
            )
        for what, owner, shift in (
            ("user", self.init.user, self.id_maps.shift_uid),
            ("group", self.init.group, self.id_maps.shift_gid),
        ):
            if isinstance(owner, int) and shift(owner) is None:
                yield f"{what} {owner} of init is not in the ID maps"

    def _network_problems(self) -> Iterator[str]:
        if self.namespaces.net and (self.features.privnet or self.interfaces):
            yield (
                "a shared network namespace excludes interfaces and "
                "features.privnet"
            )
        devices = guest_devices(self.interfaces)
        yield from _twice("interfaces with the name", devices)

    def _other_problems(self) -> Iterator[str]:
        paths = [each.path for each in self.devices]
        yield from _twice("devices with the path", paths)
        models = [seclabel.model for seclabel in self.seclabels]
        yield from _twice("seclabels with the model", models)
        memory = self.tuning.hard_limit_mib or self.memory_mib
        with_swap = self.tuning.swap_hard_limit_mib
        if with_swap is not None and with_swap < memory:
            yield (
                f"memory and swap together ({with_swap} MiB) are less than "
                f"the memory ({memory} MiB), which the kernel refuses"
            )

    def to_element(self) -> etree._Element:
        """``<domain>``."""
        domain = etree.Element("domain", type="lxc")
        _add_text(domain, "name", self.name)
        if self.uuid is not None:
            _add_text(domain, "uuid", self.uuid)
        if self.metadata:
            domain.append(metadata.to_element(self.metadata))
        _add_text(domain, "memory", str(self.memory_mib)).set("unit", "MiB")
        vcpu = _add_text(domain, "vcpu", str(self.vcpus))
        if self.tuning.cpus is not None:
            vcpu.set("cpuset", self.tuning.cpus)
        domain.extend(self.tuning.to_elements())
        domain.append(self.init.to_element())
        if self.id_maps is not None:
            domain.append(idmaps.to_element(self.id_maps))
        features = self.features.to_element()
        if features is not None:
            domain.append(features)
        domain.append(self._devices())
        domain.extend(seclabel.to_element() for seclabel in self.seclabels)
        if self.namespaces:
            domain.append(self.namespaces.to_element())
        return domain

    def _devices(self) -> etree._Element:
        devices = etree.Element("devices")
        if self.emulator is not None:
            _add_text(devices, "emulator", self.emulator)
        devices.extend(fs.to_element() for fs in self.filesystems)
        devices.extend(net.to_element() for net in self.interfaces)
        devices.extend(map(device.to_element, self.devices))
        for _ in range(self.consoles):
            console = etree.SubElement(devices, "console", type="pty")
            etree.SubElement(console, "target", type="lxc")
        return devices

    def to_xml(self) -> str:
        """The document, for ``virDomainDefineXMLFlags``."""
        return serialise(self.to_element())

    @classmethod
    def from_xml(cls, domain_xml: str) -> Domain:
        """Read a domain that :meth:`to_xml` wrote, or libvirt gives back.

        Only what this class has a word for is read: to change somebody
        else's domain, edit its XML, as :func:`~lxc_userns.domain.add_id_maps`
        does.

        :raises DomainXmlError: if it is no LXC domain, or one that this class
            would not make.
        """
        domain = parse_domain(domain_xml)
        return cls(
            name=text_at(domain, "name") or "",
            uuid=text_at(domain, "uuid"),
            memory_mib=memory_mib(_required(domain, "memory")),
            vcpus=number_of("<vcpu>", text_of(_required(domain, "vcpu"))),
            init=Init.from_element(_required(domain, "os")),
            filesystems=read_filesystems(domain),
            id_maps=idmaps.from_domain(domain),
            interfaces=tuple(_interfaces(domain)),
            devices=device.from_domain(domain),
            features=Features.from_domain(domain),
            consoles=len(domain.findall("devices/console")),
            tuning=Tuning.from_domain(domain),
            seclabels=tuple(
                map(SecLabel.from_element, domain.iterfind("seclabel"))
            ),
            namespaces=SharedNamespaces.from_domain(domain),
            emulator=text_at(domain, "devices/emulator"),
            metadata=metadata.from_domain(domain),
        )


def _depth(filesystem: Filesystem) -> int:
    return filesystem.target.rstrip("/").count("/")


def _twice(what: str, names: Sequence[str]) -> Iterator[str]:
    for name, number in Counter(names).items():
        if number > 1:
            yield f"{number} {what} {shown(name)}, only one can have it"


def _add_text(parent: etree._Element, tag: str, text: str) -> etree._Element:
    element = etree.SubElement(parent, tag)
    element.text = text
    return element


def _required(domain: etree._Element, tag: str) -> etree._Element:
    element = domain.find(tag)
    if element is None:
        raise DomainXmlError(f"domain XML: has no <{tag}>")
    return element


def _interfaces(
    domain: etree._Element,
) -> Iterator[Interface | HostInterface]:
    for element in domain.iterfind("devices/*"):
        if element.tag == "interface":
            yield Interface.from_element(element)
        elif element.tag == "hostdev" and element.get("type") == "net":
            yield HostInterface.from_element(element)
