# SPDX-License-Identifier: Apache-2.0
"""Limits in groups that are root's: which, where, and whether they hold.

The groups are directories of plain files, as the kernel's look.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from lxc_userns.domain.limits import BlockDevice, ResourceLimits
from lxc_userns.linux.mounts import Mount
from lxc_userns.linux.process import Process
from lxc_userns.resources import (
    differences,
    enforce,
    partition,
    settings,
)
from lxc_userns.resources.access import HostAccess, read_number
from lxc_userns.resources.groups import ContainerGroups, Place

MEBIBYTE = 1 << 20
ALL = ResourceLimits(
    memory=64 * MEBIBYTE,
    balloon=64 * MEBIBYTE,
    soft_memory=32 * MEBIBYTE,
    swap=96 * MEBIBYTE,
    cpu_weight=512,
    cpu_quota=25000,
    cpu_period=50000,
    cpus="0-2,^1",
    nodes="0",
    disk_weight=500,
    disks=(BlockDevice("/dev/sda", read_bytes_sec=1000, write_iops_sec=20),),
)
NUMBERS = {"/dev/sda": "8:0"}
SCOPE = r"machine-lxc\x2d42\x2dweb1.scope"


def hierarchy(point: Path, fs_type: str, options: str) -> Mount:
    return Mount(
        1, str(point), fs_type, fs_options=frozenset(options.split(",")),
        device="0:7", root="/",
    )  # fmt: skip


def with_mounts(mounts: list[Mount]) -> HostAccess:
    """A host where these are mounted, and nothing else."""
    return HostAccess(
        read_mounts=lambda: mounts, read_number=NUMBERS.__getitem__
    )


@dataclass
class FakeProcess:
    """A first process whose parent is libvirt's."""

    cgroups: dict[str, str] = field(default_factory=dict)
    pid: int = 4200

    @contextmanager
    def opened_parent(self) -> Iterator["FakeProcess"]:
        yield self


@dataclass
class FakeHost:
    """A host with control groups in a directory."""

    top: Path
    access: HostAccess

    def __truediv__(self, name: str) -> Path:
        return self.top / name


@pytest.fixture
def top(tmp_path: Path) -> FakeHost:
    """Mount point of version 2."""
    mounts = [hierarchy(tmp_path, "cgroup2", "rw")]
    return FakeHost(tmp_path, with_mounts(mounts))


def make(group: Path, **values: str) -> Path:
    group.mkdir(parents=True)
    for name, value in values.items():
        (group / name.replace("__", ".")).write_text(value)
    return group


FILES = {
    "memory__max": "max\n",
    "memory__high": "max\n",
    "memory__swap__max": "max\n",
    "pids__max": "max\n",
    "pids__current": "3\n",
    "cpu__max": "max 100000\n",
    "cpu__weight": "100\n",
    "cpuset__cpus": "\n",
    "cpuset__mems": "\n",
    "io__weight": "default 100\n",
    "io__max": "",
}


class FakeSystemd:
    """systemd, which is told to set properties of units."""

    def __init__(self, group: Path, **files: str) -> None:
        self.set: dict[str, list[str]] = {}
        self._group, self._files = group, files

    def set_properties(self, unit: str, assignments: Iterable[str]) -> None:
        self.set[unit] = [*assignments]
        for name, value in self._files.items():
            (self._group / name.replace("__", ".")).write_text(value)


def run(
    host: HostAccess, own: str, limits: ResourceLimits, most: int = 4096
) -> list[str]:
    init = cast(Process, FakeProcess({"": own}))
    return enforce("web1", init, limits, most, host)


def test_version_2_in_the_group_above(top: FakeHost) -> None:
    above = make(top / "machine/lxc-userns-web1.partition", **FILES)
    own = make(above / "lxc-42-web1.libvirt-lxc", **FILES)
    name = f"/{own.relative_to(top.top)}"
    assert run(top.access, name, ALL) == []
    found = {path.name: path.read_text() for path in above.glob("*.*")
             if path.is_file()}  # fmt: skip
    assert found == {
        "memory.max": str(64 * MEBIBYTE),
        "memory.high": str(32 * MEBIBYTE),
        "memory.swap.max": str(96 * MEBIBYTE),
        "pids.max": "4096",
        "pids.current": "3\n",
        "cpu.max": "25000 50000",
        "cpu.weight": "512",
        "cpuset.cpus": "0,2",
        "cpuset.mems": "0",
        "io.weight": "default 500",
        "io.max": "8:0 rbps=1000 wiops=20",
    }
    # What is in its own is harmless, and left.
    assert (own / "memory.max").read_text() == "max\n"


def test_what_the_kernel_does_not_take_is_a_difference(
    top: FakeHost,
) -> None:
    above = make(top / "machine/lxc-userns-web1.partition", **FILES)
    own = make(above / "lxc-42-web1.libvirt-lxc")
    (above / "memory.high").unlink()

    def refuse(_group: str, _name: str, _value: str) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    host = replace(top.access, write=refuse)
    limits = ResourceLimits(memory=MEBIBYTE, soft_memory=MEBIBYTE)
    assert run(host, f"/{own.relative_to(top.top)}", limits) == [
        f"{above}/memory.max is 'max', promised was 1048576",
        f"{above}/memory.high is not there, promised was 1048576",
        f"{above}/pids.max is 'max', promised was 4096",
    ]


def test_more_than_it_may_have_from_before_the_limit(top: FakeHost) -> None:
    above = make(top / "machine/lxc-userns-web1.partition", **FILES)
    own = make(above / "lxc-42-web1.libvirt-lxc")
    (above / "pids.current").write_text("5001\n")
    name = f"/{own.relative_to(top.top)}"
    assert run(top.access, name, ResourceLimits()) == [
        "it has 5001 processes and threads, promised were 4096 at most"
    ]
    assert run(top.access, name, ResourceLimits(), 0) == []


@pytest.mark.parametrize(
    "own",
    [
        "machine/lxc-42-web1.libvirt-lxc",
        # Of another one, or of none.
        "machine/lxc-userns-web2.partition/lxc-42-web1.libvirt-lxc",
        "machine/libvirt",
        f"machine.slice/{SCOPE}",
    ],
)
def test_a_group_above_that_is_shared(top: FakeHost, own: str) -> None:
    make(top / own, **FILES)
    (reason,) = run(top.access, f"/{own}", ResourceLimits())
    assert "is that of other containers too; install" in reason


def test_systemd_keeps_the_limits_of_a_scope(top: FakeHost) -> None:
    above = make(top / "machine.slice" / SCOPE, **FILES)
    make(above / "libvirt", **FILES)
    # The latter is on BFQ's scale.
    files = {"cpu__weight": "512\n", "io__weight": "default 136\n"}
    systemd = FakeSystemd(above, **files)
    host = replace(top.access, set_properties=systemd.set_properties)
    assert run(host, f"/machine.slice/{SCOPE}/libvirt", ALL) == []
    assert systemd.set == {
        SCOPE: [
            f"MemoryMax={64 * MEBIBYTE}",
            f"MemoryHigh={32 * MEBIBYTE}",
            f"MemorySwapMax={96 * MEBIBYTE}",
            "TasksMax=4096",
            "AllowedCPUs=0,2",
            "AllowedMemoryNodes=0",
            "CPUWeight=512",
            "CPUQuota=50.00%",
            "CPUQuotaPeriodSec=50000us",
            "IOWeight=500",
            "IOReadBandwidthMax=/dev/sda 1000",
            "IOWriteIOPSMax=/dev/sda 20",
        ]
    }
    # Exact, whatever systemd rounds to.
    assert (above / "cpu.max").read_text() == "25000 50000"


def test_a_value_that_systemd_has_not_set(top: FakeHost) -> None:
    above = make(top / "machine.slice" / SCOPE, **FILES)
    make(above / "libvirt")
    systemd = FakeSystemd(above)
    host = replace(top.access, set_properties=systemd.set_properties)
    limits = ResourceLimits(cpu_weight=512)
    assert run(host, f"/machine.slice/{SCOPE}/libvirt", limits) == [
        f"{above}/cpu.weight is '100', promised was 512"
    ]
    assert systemd.set == {SCOPE: ["TasksMax=4096", "CPUWeight=512"]}


VERSION_1 = {
    "memory": {
        "memory__limit_in_bytes": f"{64 * MEBIBYTE}\n",
        "memory__soft_limit_in_bytes": f"{32 * MEBIBYTE}\n",
        "memory__memsw__limit_in_bytes": f"{96 * MEBIBYTE}\n",
        "cgroup__procs": "4200\n1\n2\n",
    },
    "cpu": {
        "cpu__shares": "512\n",
        "cpu__cfs_quota_us": "25000\n",
        "cpu__cfs_period_us": "50000\n",
    },
    "cpuset": {"cpuset__cpus": "0,2\n", "cpuset__mems": "0\n"},
    "blkio": {
        "blkio__bfq__weight": "500\n",
        "blkio__throttle__read_bps_device": "8:16 5\n8:0 1000\n",
        "blkio__throttle__write_iops_device": "8:0 20\n",
    },
    "pids": {"cgroup__procs": "4200\n"},
}
OWN_1 = {"pids": "/system"}


@pytest.fixture
def old(tmp_path: Path) -> FakeHost:
    """Mount points of version 1's hierarchies, with a container."""
    mounts = []
    for controller, files in VERSION_1.items():
        mounts.append(hierarchy(tmp_path / controller, "cgroup", controller))
        make(Path(f"{tmp_path}/{controller}{own_1(controller)}"), **files)
    return FakeHost(tmp_path, with_mounts(mounts))


def own_1(controller: str) -> str:
    return OWN_1.get(controller, "/machine/lxc-42-web1.libvirt-lxc")


def run_1(
    host: HostAccess, limits: ResourceLimits, most: int = 0
) -> list[str]:
    of = {controller: own_1(controller) for controller in VERSION_1}
    init = cast(Process, FakeProcess(of))
    return enforce("web1", init, limits, most, host)


def test_version_1_is_compared(old: FakeHost) -> None:
    assert run_1(old.access, ALL) == []


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ("memory/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
        ("cpu/cpu.shares", "1024\n"),
        ("cpu/cpu.cfs_quota_us", "-1\n"),
        ("cpu/cpu.cfs_period_us", "100000\n"),
        ("cpuset/cpuset.cpus", "0-2\n"),
        ("cpuset/cpuset.mems", "0-1\n"),
        ("blkio/blkio.bfq.weight", "100\n"),
        ("blkio/blkio.throttle.read_bps_device", "8:16 1000\n"),
        ("blkio/blkio.throttle.write_iops_device", ""),
    ],
)
def test_each_value_of_version_1(old: FakeHost, file: str, value: str) -> None:
    controller, name = file.split("/")
    path = Path(f"{old.top}/{controller}{own_1(controller)}/{name}")
    before = path.read_text()
    path.write_text(value)
    (reason,) = run_1(old.access, ALL)
    assert reason.startswith(f"{path} is {value.strip()!r}, promised was ")
    path.write_text(before)
    assert run_1(old.access, ALL) == []
    path.unlink()
    assert "is not there, promised was" in run_1(old.access, ALL)[0]


def test_memory_that_was_set_while_it_ran(old: FakeHost) -> None:
    path = Path(f"{old.top}/memory{own_1('memory')}/memory.limit_in_bytes")
    path.write_text(f"{16 * MEBIBYTE}\n")
    limits = ResourceLimits(memory=64 * MEBIBYTE, balloon=16 * MEBIBYTE)
    assert run_1(old.access, limits) == []
    assert len(run_1(old.access, ResourceLimits(memory=64 * MEBIBYTE))) == 1


LIMITED = "pids/lxc-userns/web1"


def test_processes_of_version_1(old: FakeHost) -> None:
    limited = old / LIMITED
    make(limited, cgroup__procs="", pids__max="max\n", pids__current="2\n")
    begun = iter([[], [3], []])

    def move(pid: int, group: str) -> None:
        """One begins another before it is moved itself."""
        listed = Path(f"{old.top}/memory{own_1('memory')}/cgroup.procs")
        for other in next(begun, []):
            listed.write_text(listed.read_text() + f"{other}\n")
        with Path(group, "cgroup.procs").open("a") as stream:
            stream.write(f"{pid}\n")

    host = replace(old.access, move=move)
    assert run_1(host, ResourceLimits(), 77) == []
    assert (limited / "pids.max").read_text() == "77"
    moved = (limited / "cgroup.procs").read_text().split()
    # All but libvirt's own.
    assert moved == ["1", "2", "3"]


def test_processes_that_cannot_be_caught(old: FakeHost) -> None:
    make(old / LIMITED, cgroup__procs="", pids__max="", pids__current="2\n")
    slept: list[float] = []
    host = replace(old.access, sleep=slept.append)
    assert run_1(host, ResourceLimits(), 77) == [
        "it begins processes faster than they can be limited"
    ]
    # It had seconds for those that were exiting, twice.
    assert sum(slept) == pytest.approx(2 * 199 * 0.05)


def test_a_process_that_ends_while_it_is_looked_at(old: FakeHost) -> None:
    """It is in the one list, and gone before the other one is read."""
    limited = old / LIMITED
    own = f"{old.top}/memory{own_1('memory')}"
    make(limited, pids__max="77\n", pids__current="2\n")
    lists = {own: [{1, 2}] * 5, str(limited): [{1}, {1}, {2}, {1}, {1, 2}]}
    looked = []

    def processes(group: str) -> set[int]:
        looked.append(group)
        return lists[group].pop(0)

    init = cast(
        Process, FakeProcess({name: own_1(name) for name in VERSION_1})
    )
    # Some looks come soon after each other.
    host = replace(old.access, processes=processes, sleep=lambda _: None)
    assert differences("web1", init, ResourceLimits(), 77, host) == []
    assert looked == [own, str(limited)] * 5


def test_without_a_hierarchy_of_pids(old: FakeHost) -> None:
    controllers = VERSION_1.keys() - {"pids"}
    host = with_mounts(
        [hierarchy(old / name, "cgroup", name) for name in controllers]
    )
    (reason,) = run_1(host, ResourceLimits(), 77)
    assert "set max_processes to 0" in reason
    assert run_1(host, ResourceLimits(), 0) == []


@pytest.fixture
def scope_1(tmp_path: Path) -> FakeHost:
    """Mount points of version 1, with a container that systemd keeps."""
    mounts = [
        hierarchy(tmp_path / name, "cgroup", name)
        for name in ("memory", "pids", "cpu")
    ]
    for controller in ("memory", "cpu"):
        make(tmp_path / controller / "machine.slice" / SCOPE / "libvirt")
    make(tmp_path / "pids/machine.slice" / SCOPE, pids__max="max\n")
    return FakeHost(tmp_path, with_mounts(mounts))


def in_scope(pids: str) -> Process:
    own = f"/machine.slice/{SCOPE}/libvirt"
    of = {"memory": own, "cpu": own, "pids": pids}
    return cast(Process, FakeProcess(of))


def test_a_scope_in_version_1(scope_1: FakeHost) -> None:
    (scope_1 / "cpu/machine.slice" / SCOPE / "cpu.shares").write_text("9\n")
    systemd = FakeSystemd(scope_1.top)
    host = replace(scope_1.access, set_properties=systemd.set_properties)
    init = in_scope(f"/machine.slice/{SCOPE}")
    limits = ResourceLimits(cpu_weight=9)
    assert enforce("web1", init, limits, 77, host) == []
    limited = scope_1 / "pids/machine.slice" / SCOPE / "pids.max"
    assert limited.read_text() == "77"
    assert [*systemd.set] == [SCOPE]


def test_a_scope_that_is_that_of_libvirtd(
    scope_1: FakeHost,
) -> None:
    """It runs in a container of systemd's itself."""
    make(scope_1 / "pids/machine.slice/machine-host.scope")
    limited = scope_1 / "pids/lxc-userns/web1"
    make(limited, pids__max="max\n")
    init = in_scope("/machine.slice/machine-host.scope")
    assert enforce("web1", init, ResourceLimits(), 77, scope_1.access) == []
    assert (limited / "pids.max").read_text() == "77"


def test_groups_of_a_container() -> None:
    mounts = [
        hierarchy(Path("/cg/cpu"), "cgroup", "rw,cpu,cpuacct"),
        hierarchy(Path("/cg/memory"), "cgroup", "rw,memory"),
        hierarchy(Path("/cg/unified"), "cgroup2", "rw"),
    ]
    of = {"cpu,cpuacct": "/machine/a", "memory": "/machine/a", "": "/"}
    groups = ContainerGroups.find(of, mounts)
    assert not groups.is_unified
    assert groups.directory("cpu") == "/cg/cpu/machine/a"
    assert groups.outer("cpuacct") == Place("/cg/cpu/machine/a")
    assert groups.directory("io") is None
    assert groups.outer("io") is None
    only = ContainerGroups.find({"": "/machine/a"}, mounts[2:])
    assert only.is_unified


@pytest.mark.parametrize(
    ("value", "found", "same"),
    [
        ("0-3,^2", "0-1,3", True),
        ("0-3,^2", "0-3", False),
        ("10-12,^11", "10,12", True),
        ("^1,0-1", "0-1", True),
        ("", "", True),
    ],
)
def test_lists(value: str, found: str, same: bool) -> None:
    assert settings._same_list(value, found) == same


def test_bytes_are_pages() -> None:
    limits = ResourceLimits(memory=65537 * 1024)
    (setting, _) = settings.version_2(limits, 1, {})
    assert setting.holds(f"{65536 * 1024}\n")
    assert not setting.holds(f"{65532 * 1024}\n")
    assert not setting.holds("max\n")


def test_a_quota_without_limit() -> None:
    (setting,) = settings.version_2(ResourceLimits(cpu_quota=-1), 0, {})
    assert setting.value == "max 100000"
    (setting,) = settings.version_2(ResourceLimits(cpu_period=9000), 0, {})
    assert setting.value == "max 9000"


def test_the_weight_of_one_disk() -> None:
    limits = ResourceLimits(disks=(BlockDevice("/dev/sda", weight=200),))
    (setting,) = settings.version_2(limits, 0, NUMBERS)
    assert (setting.file, setting.value) == ("io.bfq.weight", "8:0 200")
    assert setting.instead is not None
    assert setting.instead.file == "io.weight"
    assert setting.holds("default 100\n8:0 200\n")
    assert not setting.holds("default 200\n8:16 200\n")
    (setting,) = settings.version_1(limits, NUMBERS)
    assert (setting.file, setting.value) == ("blkio.weight_device", "8:0 200")


def test_the_number_of_no_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is not a block device; correct"):
        read_number(str(tmp_path))


def test_partition(top: FakeHost) -> None:
    host = replace(top.access, has_machined=lambda: False)
    (top / "cgroup.subtree_control").touch()
    assert partition.find("web1", host) == "/machine/lxc-userns-web1.partition"
    partition.make("web1", 77, host)
    group = top / "machine/lxc-userns-web1.partition"
    assert (group.stat().st_mode & 0o777, group.is_dir()) == (0o755, True)
    assert (top / "cgroup.subtree_control").read_text() == "+pids"
    partition.make("web1", 77, host)
    partition.remove("web1", host)
    assert not group.exists()
    partition.remove("web1", host)


def test_no_partition(top: FakeHost) -> None:
    host = replace(top.access, has_machined=lambda: True)
    assert partition.find("web1", host) is None
    partition.make("web1", 77, host)
    assert [*top.top.iterdir()] == []
    mounts = [
        hierarchy(top.top, "cgroup", "rw,memory"),
        hierarchy(top / "unified", "cgroup2", "rw"),
    ]
    host = replace(with_mounts(mounts), has_machined=lambda: False)
    assert partition.find("web1", host) is None
