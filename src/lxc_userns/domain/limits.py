# SPDX-License-Identifier: Apache-2.0
"""Resource limits of a domain, as libvirt's LXC driver applies them.

Of libvirt's many settings only those that its LXC driver puts into cgroups;
the others it accepts and forgets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from lxml import etree

from lxc_userns.domain.document import (
    child,
    number_of,
    parse_domain,
    scaled_kib,
    text_at,
    text_of,
)

#: libvirt's word for no limit, in KiB (VIR_DOMAIN_MEMORY_PARAM_UNLIMITED).
_UNLIMITED_KIB: Final = 9007199254740991
#: The quota that libvirt takes for none (VIR_CGROUP_CPU_QUOTA_MAX).
_UNLIMITED_QUOTA: Final = 2**44 - 1
#: The period of a quota for which none is given (sched-bwc.rst).
DEFAULT_PERIOD: Final = 100_000


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """Limits on one disk of the host; None is no limit.

    :param path: device node on the host.
    :param weight: share of the disk's time.
    :param read_bytes_sec: likewise the other three: what it may do a second.
    """

    path: str
    weight: int | None = None
    read_bytes_sec: int | None = None
    write_bytes_sec: int | None = None
    read_iops_sec: int | None = None
    write_iops_sec: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """Limits of one container; None where the domain sets none.

    :param memory: bytes.
    :param balloon: bytes that the memory was set to while it ran, as by
        ``virsh setmem``.
    :param soft_memory: bytes to which it is pressed down.
    :param swap: what libvirt writes to the limit of swap, in bytes.
    :param cpu_weight: share of the CPUs.
    :param cpu_quota: microseconds of CPU time in a period; -1 for no limit.
    :param cpu_period: microseconds.
    :param cpus: CPUs, as libvirt lists them.
    :param nodes: NUMA nodes, likewise.
    :param disk_weight: share of the time of all disks.
    :param disks: limits of single disks.
    """

    memory: int | None = None
    balloon: int | None = None
    soft_memory: int | None = None
    swap: int | None = None
    cpu_weight: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpus: str | None = None
    nodes: str | None = None
    disk_weight: int | None = None
    disks: tuple[BlockDevice, ...] = ()


def read_limits(domain_xml: str) -> ResourceLimits:
    """Read the limits of a domain.

    :raises DomainXmlError: if it is no LXC domain, or a value is none.
    """
    return from_domain(parse_domain(domain_xml))


def from_domain(domain: etree._Element) -> ResourceLimits:
    """Read the limits of a ``<domain>``; errors as of :func:`read_limits`."""
    return ResourceLimits(
        memory=_bytes(domain, "memtune/hard_limit", "memory"),
        balloon=_bytes(domain, "currentMemory"),
        soft_memory=_bytes(domain, "memtune/soft_limit"),
        swap=_bytes(domain, "memtune/swap_hard_limit"),
        cpu_weight=_number(domain, "cputune/shares"),
        cpu_quota=_quota(domain),
        cpu_period=_number(domain, "cputune/period"),
        cpus=_cpus(domain),
        nodes=_nodes(domain),
        disk_weight=_number(domain, "blkiotune/weight"),
        disks=tuple(_disks(domain)),
    )


def _bytes(domain: etree._Element, *paths: str) -> int | None:
    """Return the first of several amounts that is there and a limit."""
    for path in paths:
        element = domain.find(path)
        if element is None:
            continue
        text = text_of(element).strip()
        kib = scaled_kib(element, text, element.get("unit"))
        if kib < _UNLIMITED_KIB:
            return kib * 1024
        return None
    return None


def _number(domain: etree._Element, path: str) -> int | None:
    text = text_at(domain, path)
    return None if text is None else number_of(f"<{path}>", text.strip())


def _quota(domain: etree._Element) -> int | None:
    text = text_at(domain, "cputune/quota")
    if text is None:
        return None
    if text.strip().startswith("-"):
        return -1
    quota = number_of("<quota>", text.strip())
    # libvirt takes 0 for no word about it.
    return -1 if quota >= _UNLIMITED_QUOTA else quota or None


def _cpus(domain: etree._Element) -> str | None:
    if child(domain, "vcpu", "placement") == "auto":
        return None
    return child(domain, "vcpu", "cpuset")


def _nodes(domain: etree._Element) -> str | None:
    # libvirt leaves out strict ones (virLXCCgroupSetupCpusetTune).
    if child(domain, "numatune/memory", "mode") in (None, "strict"):
        return None
    return child(domain, "numatune/memory", "nodeset")


def _disks(domain: etree._Element) -> Iterator[BlockDevice]:
    for element in domain.iterfind("blkiotune/device"):
        path, *numbers = (each.name for each in fields(BlockDevice))
        yield BlockDevice(
            text_at(element, path) or "",
            *(_number(element, name) for name in numbers),
        )
