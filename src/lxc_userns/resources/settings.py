# SPDX-License-Identifier: Apache-2.0
"""Limits as files of control groups, and what the kernel says of them; pure.

See cgroup-v2.rst and cgroup-v1/ of the kernel's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lxc_userns.domain.limits import DEFAULT_PERIOD, ResourceLimits

#: The kernel counts memory in pages; those of 4 KiB are the smallest.
_PAGE: Final = 4096
#: Memory in version 1, which libvirt sets anew for "virsh setmem".
MEMORY_1: Final = "memory.limit_in_bytes"
_NO_LIMIT: Final = "max"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that a file of a control group has to have.

    :param controller: by version 2's name, as ``memory`` or ``io``.
    :param file: name of the file.
    :param value: what is written to it.
    :param is_same: whether what is read is that.
    :param is_share: whether it is only a share among the groups beside it,
        so that it counts for the outermost group of a container.
    :param instead: what it is where there is no such file.
    """

    controller: str
    file: str
    value: str
    is_same: Callable[[str, str], bool]
    is_share: bool = False
    instead: Setting | None = None

    def holds(self, found: str) -> bool:
        """Return whether what was read from the file is the value."""
        return self.is_same(self.value, found)


def _same_words(value: str, found: str) -> bool:
    return value.split() == found.split()


def _same_bytes(value: str, found: str) -> bool:
    if not (value.isdigit() and found.strip().isdigit()):
        return _same_words(value, found)
    return int(value) // _PAGE == int(found) // _PAGE


def _same_list(value: str, found: str) -> bool:
    return _members(value) == _members(found)


def _same_weight(value: str, found: str) -> bool:
    # The first line is "default 100", or the number alone; those of disks
    # follow.
    weight = int(value.split()[-1])
    # systemd gives BFQ, which knows less, its own scale (BFQ_WEIGHT).
    scaled = 100 + (weight - 100) * 900 // 9900 if weight > 100 else weight
    return found.splitlines()[0].split()[-1] in (str(weight), str(scaled))


def _same_device(value: str, found: str) -> bool:
    """Return whether a line for one disk is among those that were found."""
    number, *wanted = value.split()
    for line in found.splitlines():
        if line.split()[:1] == [number]:
            return {*wanted} <= {*line.split()}
    return False


def _members(text: str) -> set[int]:
    """Return the numbers of a list like ``0-3,^2,7``."""
    members: set[int] = set()
    for first, last, without in re.findall(
        r"(?:(?<!\^)\b(\d+)(?:-(\d+))?)|\^(\d+)", text.strip()
    ):
        if without:
            members.discard(int(without))
        else:
            members.update(range(int(first), int(last or first) + 1))
    return members


def version_2(
    limits: ResourceLimits, max_processes: int, devices: Mapping[str, str]
) -> Iterator[Setting]:
    """Give the settings of the group that is above a container's own.

    :param max_processes: processes and threads; 0 for no limit.
    :param devices: ``major:minor`` of each disk, by its path.
    """
    for file, amount in (
        ("memory.max", limits.memory),
        ("memory.high", limits.soft_memory),
        ("memory.swap.max", limits.swap),
    ):
        if amount is not None:
            yield Setting("memory", file, str(amount), _same_bytes)
    if max_processes:
        yield Setting("pids", "pids.max", str(max_processes), _same_words)
    if limits.cpu_quota is not None or limits.cpu_period is not None:
        quota = limits.cpu_quota
        value = f"{_NO_LIMIT if quota in (None, -1) else quota} "
        value += str(limits.cpu_period or DEFAULT_PERIOD)
        yield Setting("cpu", "cpu.max", value, _same_words)
    yield from _cpuset(limits)
    if limits.cpu_weight is not None:
        weight = str(limits.cpu_weight)
        yield Setting("cpu", "cpu.weight", weight, _same_words, True)
    if limits.disk_weight is not None:
        yield _disk_weight("io", limits.disk_weight, "default ")
    yield from _disks_2(limits, devices)


def version_1(
    limits: ResourceLimits, devices: Mapping[str, str]
) -> Iterator[Setting]:
    """Give the settings that libvirt makes in a container's own groups.

    :param devices: as for :func:`version_2`.
    """
    if limits.memory is not None:
        yield of_memory_1(limits.memory)
    for file, amount in (
        ("memory.soft_limit_in_bytes", limits.soft_memory),
        ("memory.memsw.limit_in_bytes", limits.swap),
    ):
        if amount is not None:
            yield Setting("memory", file, str(amount), _same_bytes)
    if limits.cpu_weight is not None:
        weight = str(limits.cpu_weight)
        yield Setting("cpu", "cpu.shares", weight, _same_words, True)
    for file, number in (
        ("cpu.cfs_quota_us", limits.cpu_quota),
        ("cpu.cfs_period_us", limits.cpu_period),
    ):
        if number is not None:
            yield Setting("cpu", file, str(number), _same_words)
    yield from _cpuset(limits)
    if limits.disk_weight is not None:
        yield _disk_weight("blkio", limits.disk_weight, "")
    yield from _disks_1(limits, devices)


def of_memory_1(amount: int) -> Setting:
    """Give the setting of version 1 for an amount of memory, in bytes."""
    return Setting("memory", MEMORY_1, str(amount), _same_bytes)


def _disk_weight(controller: str, weight: int, before: str) -> Setting:
    value = f"{before}{weight}"
    plain = Setting(
        controller, f"{controller}.weight", value, _same_weight, is_share=True
    )
    # Where the kernel has it, libvirt takes that of BFQ.
    return replace(
        plain,
        file=f"{controller}.bfq.weight",
        value=str(weight),
        instead=plain,
    )


def _cpuset(limits: ResourceLimits) -> Iterator[Setting]:
    for file, numbers in (
        ("cpuset.cpus", limits.cpus),
        ("cpuset.mems", limits.nodes),
    ):
        if numbers is not None:
            # The kernel knows no "^2".
            members = ",".join(map(str, sorted(_members(numbers))))
            yield Setting("cpuset", file, members, _same_list)


def _disks_1(
    limits: ResourceLimits, devices: Mapping[str, str]
) -> Iterator[Setting]:
    for disk in limits.disks:
        number = devices[disk.path]
        for kind, rate in (
            ("read_bps", disk.read_bytes_sec),
            ("write_bps", disk.write_bytes_sec),
            ("read_iops", disk.read_iops_sec),
            ("write_iops", disk.write_iops_sec),
        ):
            if rate:
                file = f"blkio.throttle.{kind}_device"
                value = f"{number} {rate}"
                yield Setting("blkio", file, value, _same_device)
        if disk.weight:
            value = f"{number} {disk.weight}"
            yield Setting(
                "blkio", "blkio.weight_device", value, _same_device, True
            )


def _disks_2(
    limits: ResourceLimits, devices: Mapping[str, str]
) -> Iterator[Setting]:
    for disk in limits.disks:
        rates = {
            "rbps": disk.read_bytes_sec,
            "wbps": disk.write_bytes_sec,
            "riops": disk.read_iops_sec,
            "wiops": disk.write_iops_sec,
        }
        given = [f"{key}={rate}" for key, rate in rates.items() if rate]
        if given:
            line = " ".join([devices[disk.path], *given])
            yield Setting("io", "io.max", line, _same_device)
        if disk.weight:
            line = f"{devices[disk.path]} {disk.weight}"
            weight = Setting("io", "io.weight", line, _same_device, True)
            yield replace(weight, file="io.bfq.weight", instead=weight)
