# SPDX-License-Identifier: Apache-2.0
"""Observed state of a container that is as it should be."""

from dataclasses import replace
from typing import Any

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.linux.mounts import Mount
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED,
    DROPPED_PRIVATE,
)
from lxc_userns.spec.strategy import Strategy
from lxc_userns.verification import (
    Expectation,
    Observed,
    View,
    mismatches,
)
from lxc_userns.verification.observed import Node

BASE = 100_000
VIEW = "/run/x/web1/root"


def mount(
    point: str,
    fs_type: str = "ext4",
    options: str = "rw",
    device: str = "8:1",
    root: str = "/",
) -> Mount:
    """A line of ``mountinfo``."""
    return Mount(
        1, point, fs_type, frozenset(options.split(",")), device, root
    )


HOST_MOUNTS = (
    mount("/", device="8:0"),
    mount("/proc", "proc", device="0:10"),
    mount("/sys", "sysfs", device="0:11"),
    mount("/dev", "devtmpfs", device="0:5"),
    mount("/sys/fs/cgroup/cpu", "cgroup", device="0:20"),
)


def evidence(
    base: int = BASE, view: str = VIEW, options: str = "rw,nodev,idmapped"
) -> Observed:
    """Of a private container with a view on ``/srv/web1``."""
    rows = ((0, base, 65536),)
    shown = mount(view, options=options, root="/srv/web1")
    null = Node("/dev/null", "char", (1, 3), base, base)
    return Observed(
        pid=4242,
        uid_map=rows,
        gid_map=rows,
        shared=frozenset(),
        foreign=frozenset(),
        capabilities=0x1E0B4ECFFFF,
        root=replace(shown, point="/"),
        mounts=(
            replace(shown, point="/"),
            mount("/proc", "proc", device="0:52"),
            mount("/proc/sys", "proc", "ro", "0:52", "/sys"),
            mount("/proc/sys/net/ipv4", "proc", "rw", "0:10", "/sys/net/ipv4"),
            mount("/sys", "sysfs", "ro", "0:53"),
            mount("/dev", "tmpfs", device="0:47"),
            mount("/sys/fs/cgroup/cpu", "cgroup", device="0:20"),
        ),
        host_mounts=(*HOST_MOUNTS, shown),
        nodes=(null,),
        terminals=(Node("/dev/pts/0", "char", (136, 0), base, base + 5),),
        terminal_group=base + 5,
        writable=(),
    )


def changed(found: Observed, **changes: Any) -> Observed:
    """The same, but for this."""
    return replace(found, **changes)


ID_MAP = IdMap.parse("0:100000:65536")
PRIVATE = Expectation(
    "web1",
    IdMaps(ID_MAP, ID_MAP),
    frozenset(),
    frozenset({*CAPABILITIES} - DROPPED - DROPPED_PRIVATE - {"sys_resource"}),
    (),
    (View("/", VIEW, "idmapped", frozenset({"nodev"})),),
)
HOST = replace(
    PRIVATE,
    id_maps=None,
    capabilities=frozenset({*CAPABILITIES} - DROPPED),
    views=(View("/", VIEW, "plain", frozenset({"nodev"})),),
)


def find(found: Observed, promise: Expectation = PRIVATE) -> list[str]:
    """Return what differs right after the start."""
    return [*mismatches(promise, found, started=True)]


def find_later(found: Observed, promise: Expectation = PRIVATE) -> list[str]:
    return [*mismatches(promise, found)]


RECORD = InstanceRecord(
    name="web1",
    uuid="0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c",
    rootfs="/srv/web1",
    id_maps=IdMaps(ID_MAP, ID_MAP),
    strategy=Strategy.IDMAPPED,
    view=VIEW,
    dropped=("sys_resource", *DROPPED_PRIVATE),
)
