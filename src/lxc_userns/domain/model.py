# SPDX-License-Identifier: Apache-2.0
"""A container of this package's own: ``<domain type='lxc'>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import (
    check_label,
    check_number,
    refuse,
)
from lxc_userns.domain.document import serialise
from lxc_userns.domain.init import Init
from lxc_userns.domain.interface import Interface
from lxc_userns.domain.limits import DEFAULT_PERIOD
from lxc_userns.exceptions import DomainXmlError

#: Highest MiB whose bytes a 64-bit signed number holds.
_MAX_MIB: Final = 2**43 - 1
_MAX_CPUS: Final = 65536
#: The kernel's limit for a host name, which libvirt makes of the name. It is
#: in the path of a socket too, and has to be shorter than 86 bytes for that.
_NAME_LENGTH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A container without what its promise decides.

    ``PreparedInstance.apply_to()`` adds that.

    :param name: one line of at most 64 bytes, without ``/``; its letters,
        digits and hyphens become the container's host name.
    :param uuid: its UUID, in small letters.
    :param memory_mib: memory in MiB that the container may use.
    :param init: the first process.
    :param interfaces: network interfaces, in order.
    :param cpus: CPU time that it may use, in CPUs: 0.01 to 65536; None for
        as much as there is.
    :raises DomainXmlError: for a value that libvirt or the kernel refuses.
    """

    name: str
    uuid: str
    memory_mib: int
    init: Init
    interfaces: Sequence[Interface] = ()
    cpus: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "interfaces", tuple(self.interfaces))
        check_label("domain name", self.name)
        if "/" in self.name or self.name != self.name.strip():
            refuse("domain name", self.name, "has '/' or outer blanks")
        if len(self.name.encode()) > _NAME_LENGTH:
            refuse("domain name", self.name, f"more than {_NAME_LENGTH} bytes")
        check_label("domain UUID", self.uuid)
        check_number("memory in MiB", self.memory_mib, 1, _MAX_MIB)
        # Below, libvirt refuses the quota; a number that is none is neither.
        if self.cpus is not None and not 0.01 <= self.cpus <= _MAX_CPUS:
            raise DomainXmlError(
                f"CPUs {self.cpus}: expected 0.01 to {_MAX_CPUS}"
            )

    def to_element(self) -> etree._Element:
        """Return ``<domain>``."""
        domain = etree.Element("domain", type="lxc")
        _add_text(domain, "name", self.name)
        _add_text(domain, "uuid", self.uuid)
        _add_text(domain, "memory", str(self.memory_mib)).set("unit", "MiB")
        # LXC takes a number of virtual CPUs and does nothing with it.
        _add_text(domain, "vcpu", "1")
        if self.cpus is not None:
            tune = etree.SubElement(domain, "cputune")
            quota = round(self.cpus * DEFAULT_PERIOD)
            _add_text(tune, "period", str(DEFAULT_PERIOD))
            _add_text(tune, "quota", str(quota))
        domain.append(self.init.to_element())
        devices = etree.SubElement(domain, "devices")
        devices.extend(each.to_element() for each in self.interfaces)
        console = etree.SubElement(devices, "console", type="pty")
        etree.SubElement(console, "target", type="lxc")
        return domain

    def to_xml(self) -> str:
        """Return the document."""
        return serialise(self.to_element())


def _add_text(parent: etree._Element, tag: str, text: str) -> etree._Element:
    element = etree.SubElement(parent, tag)
    element.text = text
    return element
