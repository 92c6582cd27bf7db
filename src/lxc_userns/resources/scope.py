# SPDX-License-Identifier: Apache-2.0
"""Limits as properties of the scope that systemd has for a container.

The files of its group are systemd's to write: when any property of the unit is
set, as libvirt does for the share of the CPUs, it writes all that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from lxc_userns.domain.limits import (
    DEFAULT_PERIOD,
    BlockDevice,
    ResourceLimits,
)
from lxc_userns.resources.settings import Setting

#: See systemd.resource-control(5).
_PROPERTIES: Final = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
    "cpuset.cpus": "AllowedCPUs",
    "cpuset.mems": "AllowedMemoryNodes",
}
_OF_DISKS: Final[dict[str, Callable[[BlockDevice], int | None]]] = {
    "IODeviceWeight": lambda disk: disk.weight,
    "IOReadBandwidthMax": lambda disk: disk.read_bytes_sec,
    "IOWriteBandwidthMax": lambda disk: disk.write_bytes_sec,
    "IOReadIOPSMax": lambda disk: disk.read_iops_sec,
    "IOWriteIOPSMax": lambda disk: disk.write_iops_sec,
}


def list_assignments(
    wanted: Iterable[Setting], limits: ResourceLimits
) -> Iterator[str]:
    """Yield limits of a container as properties of systemd's scope.

    :param wanted: settings of its group.
    :param limits: what its domain says.
    """
    for setting in wanted:
        name = _PROPERTIES.get(setting.file)
        if name is not None:
            yield f"{name}={setting.value}"
    if limits.cpu_quota is not None and limits.cpu_quota > 0:
        period = limits.cpu_period or DEFAULT_PERIOD
        hundredths = limits.cpu_quota * 10_000 // period
        yield f"CPUQuota={hundredths // 100}.{hundredths % 100:02}%"
        yield f"CPUQuotaPeriodSec={period}us"
    if limits.disk_weight is not None:
        yield f"IOWeight={limits.disk_weight}"
    for disk in limits.disks:
        for name, rate_of in _OF_DISKS.items():
            if rate := rate_of(disk):
                yield f"{name}={disk.path} {rate}"
