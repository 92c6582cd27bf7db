# SPDX-License-Identifier: Apache-2.0
"""Limits on what a container uses of the host: the ``*tune`` elements.

Of libvirt's many settings only those that its LXC driver puts into cgroups;
the others it accepts and forgets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lxml import etree

from lxc_userns.domain.checks import (
    check_choice,
    check_cpu_list,
    check_number,
    check_path,
    refuse,
)
from lxc_userns.domain.document import (
    child,
    memory_mib,
    number_of,
    text_at,
    text_of,
)
from lxc_userns.exceptions import DomainXmlError

#: Highest MiB whose bytes a 64-bit signed number holds.
MAX_MIB: Final = 2**43 - 1
_MEMORY: Final = ("hard_limit", "soft_limit", "swap_hard_limit")
_CPU: Final = (
    ("shares", "cpu_shares"),
    ("period", "cpu_period_us"),
    ("quota", "cpu_quota_us"),
)
_MODES: Final = frozenset({"strict", "preferred", "interleave", "restrictive"})
_UINT: Final = 2**32 - 1
_ULONG: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """Limits on one disk of the host; None is no limit.

    :param path: device node on the host.
    :param weight: share of the disk's time, 100 to 1000.
    :param read_bytes_sec: likewise the other three: what it may do a second.
    """

    path: str
    weight: int | None = None
    read_bytes_sec: int | None = None
    write_bytes_sec: int | None = None
    read_iops_sec: int | None = None
    write_iops_sec: int | None = None

    def __post_init__(self) -> None:
        check_path("tuned disk", self.path)
        for name, lowest, highest in _BLOCK_LIMITS:
            value = getattr(self, name)
            if value is not None:
                check_number(f"{name} of {self.path}", value, lowest, highest)

    def to_element(self) -> etree._Element:
        """``<device>`` of ``<blkiotune>``."""
        element = etree.Element("device")
        etree.SubElement(element, "path").text = self.path
        for name, _, _ in _BLOCK_LIMITS:
            _add_number(element, name, getattr(self, name))
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> BlockDevice:
        """Read ``<device>`` of ``<blkiotune>``."""
        return cls(
            text_at(element, "path") or "",
            *(_number(element, name) for name, _, _ in _BLOCK_LIMITS),
        )


_BLOCK_LIMITS: Final = (
    ("weight", 100, 1000),
    ("read_bytes_sec", 1, _ULONG),
    ("write_bytes_sec", 1, _ULONG),
    ("read_iops_sec", 1, _UINT),
    ("write_iops_sec", 1, _UINT),
)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Limits of a container beside its memory; None leaves the default.

    :param hard_limit_mib: memory in MiB that it may use, instead of the
        domain's own.
    :param soft_limit_mib: what it is pressed down to when the host is short.
    :param swap_hard_limit_mib: memory and swap together, not less than the
        memory.
    :param cpu_shares: share of the CPUs, by default 1024.
    :param cpu_period_us: microseconds, 1000 to 1000000, for which a quota
        is given.
    :param cpu_quota_us: microseconds of CPU time in a period, all CPUs
        together; -1 for no limit. This, not the number of virtual CPUs, is
        what limits a container.
    :param cpus: CPUs of the host to run on, like ``0-3,^2``.
    :param numa_mode: ``strict``, ``preferred``, ``interleave`` or
        ``restrictive``. libvirt 9.0.0 forgets the nodes of a strict one.
    :param numa_nodes: NUMA nodes of the host to take memory from.
    :param disk_weight: share of all disks' time, 100 to 1000.
    :param disks: limits of single disks.
    :param partition: cgroup below which the container's is made, by default
        ``/machine``.
    :raises DomainXmlError: for a number or combination that libvirt or the
        kernel refuses.
    """

    hard_limit_mib: int | None = None
    soft_limit_mib: int | None = None
    swap_hard_limit_mib: int | None = None
    cpu_shares: int | None = None
    cpu_period_us: int | None = None
    cpu_quota_us: int | None = None
    cpus: str | None = None
    numa_mode: str | None = None
    numa_nodes: str | None = None
    disk_weight: int | None = None
    disks: Sequence[BlockDevice] = ()
    partition: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "disks", tuple(self.disks))
        for name, lowest, highest in (
            *((f"{tag}_mib", 1, MAX_MIB) for tag in _MEMORY),
            # libvirt's limits, VIR_CGROUP_CPU_*_MIN and _MAX.
            ("cpu_shares", 2, 262144),
            ("cpu_period_us", 1000, 1000000),
            ("disk_weight", 100, 1000),
        ):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, lowest, highest)
        if self.cpu_quota_us is not None and self.cpu_quota_us != -1:
            check_number("cpu_quota_us", self.cpu_quota_us, 1000, 2**44 - 1)
        if self.cpus is not None:
            check_cpu_list("cpus", self.cpus)
        self._check_numa()
        if self.partition is not None:
            check_path("partition", self.partition)
            if self.partition == "/":
                refuse("partition", self.partition, "expected one below /")
        paths = [disk.path for disk in self.disks]
        if len(set(paths)) < len(paths):
            refuse("tuned disks", paths, "one is there twice")

    def _check_numa(self) -> None:
        if self.numa_mode is not None:
            check_choice("numa_mode", self.numa_mode, _MODES)
        if self.numa_nodes is not None:
            check_cpu_list("numa_nodes", self.numa_nodes)
        if (self.numa_mode is None) != (self.numa_nodes is None):
            raise DomainXmlError(
                "numa_mode and numa_nodes are given both or neither"
            )

    def to_elements(self) -> Iterator[etree._Element]:
        """``<blkiotune>``, ``<memtune>``, ... as far as they say anything."""
        blkiotune = etree.Element("blkiotune")
        _add_number(blkiotune, "weight", self.disk_weight)
        blkiotune.extend(disk.to_element() for disk in self.disks)
        memtune = etree.Element("memtune")
        for tag in _MEMORY:
            _add_number(memtune, tag, getattr(self, f"{tag}_mib"), unit="MiB")
        cputune = etree.Element("cputune")
        for tag, name in _CPU:
            _add_number(cputune, tag, getattr(self, name))
        numatune = etree.Element("numatune")
        if self.numa_mode and self.numa_nodes:
            etree.SubElement(
                numatune,
                "memory",
                mode=self.numa_mode,
                nodeset=self.numa_nodes,
            )
        resource = etree.Element("resource")
        if self.partition is not None:
            etree.SubElement(resource, "partition").text = self.partition
        for element in (blkiotune, memtune, cputune, numatune, resource):
            if len(element):
                yield element

    @classmethod
    def from_domain(cls, domain: etree._Element) -> Tuning:
        """Read the limits of a ``<domain>``."""
        numa = domain.find("numatune/memory")
        return cls(
            hard_limit_mib=_memory(domain, "memtune/hard_limit"),
            soft_limit_mib=_memory(domain, "memtune/soft_limit"),
            swap_hard_limit_mib=_memory(domain, "memtune/swap_hard_limit"),
            cpu_shares=_number(domain, "cputune/shares"),
            cpu_period_us=_number(domain, "cputune/period"),
            cpu_quota_us=_number(domain, "cputune/quota"),
            cpus=child(domain, "vcpu", "cpuset"),
            numa_mode=None if numa is None else numa.get("mode"),
            numa_nodes=None if numa is None else numa.get("nodeset"),
            disk_weight=_number(domain, "blkiotune/weight"),
            disks=tuple(
                BlockDevice.from_element(disk)
                for disk in domain.iterfind("blkiotune/device")
            ),
            partition=text_at(domain, "resource/partition"),
        )


def _add_number(
    parent: etree._Element, tag: str, value: int | None, **attributes: str
) -> None:
    if value is not None:
        etree.SubElement(parent, tag, attributes).text = str(value)


def _number(parent: etree._Element, path: str) -> int | None:
    element = parent.find(path)
    if element is None:
        return None
    text = text_of(element)
    return -1 if text == "-1" else number_of(f"<{element.tag}>", text)


def _memory(parent: etree._Element, path: str) -> int | None:
    element = parent.find(path)
    return None if element is None else memory_mib(element)
