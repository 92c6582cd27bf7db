# SPDX-License-Identifier: Apache-2.0
"""Comparison of what runs with what was promised."""

from dataclasses import replace
from typing import Any

import pytest

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.spec.requirements import (
    Device,
)
from lxc_userns.verification import (
    Observed,
    describe,
    expected,
)
from lxc_userns.verification.observed import Node
from tests.unit.verification.observation import (
    BASE,
    HOST,
    ID_MAP,
    PRIVATE,
    RECORD,
    evidence,
    find,
    find_later,
    mount,
)

OUTSIDE = evidence(0, options="rw,nodev")


def test_as_promised() -> None:
    found = evidence()
    assert find(found) == []
    shown = describe(PRIVATE, found)
    assert (shown.name, shown.mode, shown.pid) == ("web1", "private", 4242)
    assert (shown.uid_map, shown.gid_map) == (str(ID_MAP), str(ID_MAP))
    shared = frozenset({"user"})
    assert find(replace(OUTSIDE, shared=shared), HOST) == []
    # More than was promised is no less.
    assert find(found, HOST) == []


def test_maps_in_any_order() -> None:
    two = IdMap.parse("0:100000:1000,1000:300000:65000")
    promise = replace(PRIVATE, id_maps=IdMaps(two, ID_MAP))
    rows = ((1000, 300000, 65000), (0, 100000, 1000))
    assert find(replace(evidence(), uid_map=rows), promise) == []


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ((), "empty"),
        (((0, 0, 4294967295),), "0:0:4294967295"),
        (((0, 100000, 1000),), "0:100000:1000"),
        (((0, 100000, 65536), (65536, 5, 1)), "0:100000:65536,65536:5:1"),
    ],
)
@pytest.mark.parametrize("kind", ["uid_map", "gid_map"])
def test_other_maps(kind: str, rows: Any, shown: str) -> None:
    (reason,) = find(replace(evidence(), **{kind: rows}))
    assert reason == f"its {kind} is {shown}, promised was {ID_MAP}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shared": {"user"}}, "it runs in the host's user namespace"),
        ({"shared": {"net"}}, "it is in the host's network namespace"),
        ({"shared": {"ipc"}}, "it is in the host's IPC namespace"),
        ({"shared": {"uts"}}, "it is in the host's UTS namespace"),
        ({"shared": {"pid"}}, "it is in the host's PID namespace"),
        ({"shared": {"mnt"}}, "it is in the host's mount namespace"),
        (
            {"foreign": {"net"}},
            "its network namespace belongs to another user namespace",
        ),
        ({"capabilities": 1 << 16}, "it may have CAP_SYS_MODULE"),
        ({"capabilities": 1 << 24}, "it may have CAP_SYS_RESOURCE"),
        ({"capabilities": 1 << 27}, "it may have CAP_MKNOD"),
        (
            {"writable": (("/sys/fs/cgroup/a", "cpu.max, memory.max"),)},
            "its root can write in /sys/fs/cgroup/a on the host: cpu.max, "
            "memory.max; chown them to root, after each start of it",
        ),
        (
            {"terminal_group": 5},
            f"its terminals are given to the host's group 5, not to "
            f"{BASE + 5}",
        ),
        (
            {
                "terminals": (
                    Node("/dev/pts/0", "char", (136, 0), 0, BASE + 5),
                )
            },
            "/dev/pts/0 belongs to the host's user 0",
        ),
        (
            {"terminals": (Node("/dev/pts/1", "char", (136, 1), BASE, 5),)},
            "/dev/pts/1 belongs to the host's group 5",
        ),
        (
            {"nodes": (Node("/dev/sda", "block", (8, 0), BASE, BASE),)},
            "it has the block device /dev/sda, 8:0",
        ),
        (
            {"nodes": (Node("/dev/mem", "char", (1, 1), BASE, BASE),)},
            "it has the char device /dev/mem, 1:1",
        ),
        (
            # A disk of the same number as the null device.
            {"nodes": (Node("/dev/null", "block", (1, 3), BASE, BASE),)},
            "it has the block device /dev/null, 1:3",
        ),
    ],
)
def test_what_differs(change: dict[str, Any], reason: str) -> None:
    values: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, set) else value
        for name, value in change.items()
    }
    assert find(replace(evidence(), **values)) == [reason]


def test_more_differences_than_are_told() -> None:
    found = evidence()
    extra = tuple(
        mount(f"/x{number}", device="8:0", root="/etc")
        for number in range(10_000)
    )
    said = find(replace(found, mounts=(*found.mounts, *extra)))
    assert len(said) == 21
    assert said[-1] == "and more"
    said = find(replace(found, mounts=(*found.mounts, *extra[:20])))
    assert len(said) == 20
    assert said[-1].startswith("at /x19 ")


def test_names_that_would_change_a_terminal() -> None:
    found = evidence()
    extra = mount("/\x1b[2J\udcff", root="/root", device="8:0")
    (said,) = find(replace(found, mounts=(*found.mounts, extra)))
    assert "\x1b" not in said
    assert "/\\x1b[2J\\udcff" in said


def test_in_the_hosts_user_namespace() -> None:
    outside = replace(OUTSIDE, shared=frozenset({"user", "net", "ipc"}))
    assert find(outside, HOST) == [
        "it is in the host's IPC namespace",
        "it is in the host's network namespace",
    ]
    promise = replace(HOST, shared=frozenset({"network", "ipc"}))
    assert find(outside, promise) == []
    sysfs = mount("/sys", "sysfs", "ro", "0:11")
    rest = tuple(each for each in OUTSIDE.mounts if each.point != "/sys")
    found = replace(outside, mounts=(*rest, sysfs))
    assert find(found, promise) == []
    writable = mount("/proc/sys", "proc", "rw", "0:52", "/sys")
    found = replace(outside, mounts=(*OUTSIDE.mounts, writable))
    assert find(found, promise) == ["its /proc/sys is not read-only"]
    # Its root can undo that, and mount what it likes.
    assert find_later(found, promise) == []
    found = replace(outside, mounts=rest)
    assert find(found, promise) == ["its /sys is not read-only"]
    extra = mount("/x", device="8:0", root="/root")
    found = replace(outside, mounts=(*OUTSIDE.mounts, extra))
    assert len(find(found, promise)) == 1
    assert find_later(found, promise) == []


@pytest.mark.parametrize(
    ("point", "kind"),
    [("/sys/kernel/security", "securityfs"), ("/sys/fs/selinux", "selinuxfs")],
)
def test_what_libvirt_mounts_where_the_host_has_it(
    point: str, kind: str
) -> None:
    """In the host's user namespace only, and there only like that."""
    hosts = mount(point, kind, device="0:80")

    def seen(found: Observed, extra: Any) -> Observed:
        return replace(
            found,
            mounts=(*found.mounts, extra),
            host_mounts=(*found.host_mounts, hosts),
        )

    shared = replace(OUTSIDE, shared=frozenset({"user"}))
    readonly = mount(point, kind, "ro,nosuid,nodev,noexec", "0:80")
    assert find(seen(shared, readonly), HOST) == []
    for each in (
        mount(point, kind, device="0:80"),
        mount("/x", kind, "ro", "0:80"),
    ):
        (said,) = find(seen(shared, each), HOST)
        assert said.startswith(f"at {each.point} it has the security ")
        # Its root can mount it itself.
        assert find_later(seen(shared, each), HOST) == []
    for look in (find, find_later):
        assert len(look(seen(evidence(), readonly))) == 1


def test_whiteouts_are_no_devices() -> None:
    node = Node("/dev/shm/x", "char", (0, 0), BASE, BASE)
    assert find(replace(evidence(), nodes=(node,))) == []


def test_devices_that_were_promised() -> None:
    node = Node("/dev/net/tun", "char", (10, 200), BASE, BASE)
    found = replace(evidence(), nodes=(node,))
    tun = (Device("/dev/net/tun", "char"),)
    assert find(found, replace(PRIVATE, devices=tun)) == []
    block = (Device("/dev/net/tun", "block"),)
    assert find(found, replace(PRIVATE, devices=block)) == [
        "it has the char device /dev/net/tun, 10:200"
    ]


LABEL = (
    "<domain type='lxc'><os><type>exe</type></os>"
    "<seclabel type='dynamic' model='{}' relabel='yes'>"
    "<label>{}</label></seclabel></domain>"
)


@pytest.mark.parametrize(
    ("model", "label", "found", "said"),
    [
        ("apparmor", "libvirt-1", "libvirt-1 (enforce)", []),
        (
            "apparmor",
            "libvirt-1",
            "libvirt-1 (complain)",
            ["has it as 'libvirt-1 (complain)'"],
        ),
        ("apparmor", "libvirt-1", "unconfined", ["has it as 'unconfined'"]),
        ("apparmor", "libvirt-1", "", ["promised was 'libvirt-1 (enforce)'"]),
        ("apparmor", "", "unconfined", ["its domain has no label of"]),
        ("selinux", "a:b:c:s0:c1,c2", "a:b:c:s0:c1,c2", []),
        ("selinux", "a:b:c:s0:c1,c2", "a:b:c:s0", ["has it as 'a:b:c:s0'"]),
    ],
)
def test_confinement(
    model: str, label: str, found: str, said: list[str]
) -> None:
    record = replace(RECORD, security_model=model)
    promise = expected.of_record(record, LABEL.format(model, label))
    differences = find(replace(evidence(), label=found), promise)
    assert len(differences) == len(said)
    for one, part in zip(differences, said, strict=True):
        assert part in one


def test_a_model_that_was_not_promised() -> None:
    other = LABEL.format("selinux", "a:b:c:s0")
    assert expected.of_record(RECORD, other).confinement is None
    record = replace(RECORD, security_model="apparmor")
    promise = expected.of_record(record, other)
    assert find(replace(evidence(), label="a:b:c:s0"), promise) == [
        "its domain has no label of apparmor"
    ]
