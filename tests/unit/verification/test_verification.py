# SPDX-License-Identifier: Apache-2.0
"""Comparison of what runs with what was promised."""

from dataclasses import replace
from typing import Any

import pytest

from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED,
    DROPPED_PRIVATE,
    Device,
    Requirements,
)
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from lxc_userns.verification import (
    Expectation,
    Observed,
    View,
    describe,
    expected,
    mismatches,
)
from lxc_userns.verification.observed import Node
from tests.unit.verification.observation import (
    BASE,
    HOST_MOUNTS,
    VIEW,
    evidence,
    mount,
)

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
OUTSIDE = evidence(0, options="rw,nodev")


def find(found: Observed, promise: Expectation = PRIVATE) -> list[str]:
    """Return what differs right after the start."""
    return [*mismatches(promise, found, started=True)]


def find_later(found: Observed, promise: Expectation = PRIVATE) -> list[str]:
    return [*mismatches(promise, found)]


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


SEEN = f"it sees {VIEW} without ID maps"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (mount("/x", "devtmpfs", device="0:5"), "the devices of the host"),
        (mount("/x", "devtmpfs", device="0:9"), "the devices of the host"),
        (mount("/x", "proc", device="0:10"), "the processes of the host"),
        (
            mount("/x", "proc", device="0:10", root="/sys"),
            "the processes of the host",
        ),
        (mount("/x", "sysfs", device="0:11"), "the network of the host"),
        (mount("/x", "debugfs", device="0:90"), "insides of the host"),
        (mount("/x", options="rw,nodev", root="/srv/web1"), SEEN),
        (mount("/x", options="rw,nodev", root="/srv/web1/etc"), SEEN),
        (mount("/x", root="/srv/web1"), f"{SEEN}, nodev"),
        (
            mount("/x", root="/srv/web10"),
            "it has /srv/web10 of a filesystem of the host (ext4)",
        ),
        (
            mount("/x", root="/srv", options="rw,idmapped,nodev"),
            "it has /srv of a filesystem of the host (ext4)",
        ),
        (
            mount("/x", device="8:0", root="/root"),
            "it has /root of a filesystem of the host (ext4)",
        ),
        (
            mount("/x", "cgroup", device="0:20"),
            "it has / of a filesystem of the host (cgroup)",
        ),
        (
            mount("/x", options="rw,idmapped", root="/srv/web1/etc"),
            f"it sees {VIEW} without nodev",
        ),
    ],
)
@pytest.mark.parametrize("look", [find, find_later])
def test_what_should_not_be_mounted(
    look: Any, extra: Any, reason: str
) -> None:
    found = evidence()
    found = replace(found, mounts=(*found.mounts, extra))
    (said,) = look(found)
    assert said.startswith("at /x it ")
    assert said.endswith(reason)


@pytest.mark.parametrize(
    "extra",
    [
        mount("/x", "proc", device="0:60"),
        mount("/x", "sysfs", device="0:61"),
        mount("/x", "tmpfs", device="0:62"),
        mount("/x", "overlay", device="0:63"),
        mount("/x", options="rw,nodev,idmapped", root="/srv/web1/etc"),
        mount("/sys/fs/cgroup/x", "cgroup", device="0:20", root="/a"),
    ],
)
def test_what_may_be_mounted(extra: Any) -> None:
    found = evidence()
    assert find(replace(found, mounts=(*found.mounts, extra))) == []


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


def test_views() -> None:
    found = evidence()
    # Not on the host, so that it could not reboot.
    assert f"{VIEW}, its /, is not mounted on the host" in find(
        replace(found, host_mounts=HOST_MOUNTS)
    )
    plain = evidence(options="rw,nodev")
    assert find(plain) == [f"{VIEW} is not idmapped", f"at / {SEEN}"]
    overlay = replace(PRIVATE, views=(View("/", VIEW, "overlay"),))
    assert find(found, overlay) == [f"{VIEW} is no overlay"]
    lax = evidence(options="rw,idmapped")
    assert find(lax) == [
        f"{VIEW} is not nodev",
        f"at / it sees {VIEW} without nodev",
    ]


def test_the_root_filesystem() -> None:
    found = evidence()
    others = mount("/", options="rw,nodev,idmapped", root="/srv/web2")
    swapped = (others, *found.mounts[1:])
    said = find(replace(found, mounts=swapped, root=others))
    assert f"its / is not {VIEW}" in said
    hosts = (HOST_MOUNTS[0], *found.mounts[1:])
    found = replace(found, mounts=hosts, root=HOST_MOUNTS[0])
    assert "its root filesystem is the host's" in find(found)
    # Whatever a domain of others says, or does not say.
    nothing = replace(PRIVATE, views=())
    assert "its root filesystem is the host's" in find(found, nothing)
    assert find_later(found, nothing) == [
        "at / it has / of a filesystem of the host (ext4)"
    ]


def test_what_it_does_to_its_own_mounts_later() -> None:
    found = evidence()
    memory = mount("/", "tmpfs", device="0:70")
    covered = replace(found, mounts=(*found.mounts, memory))
    assert find(covered) == []  # Its root is below that.
    turned = replace(covered, root=memory)
    assert find(turned) == [f"its / is not {VIEW}"]
    assert find_later(turned) == []
    assert find_later(replace(found, root=None)) == []


def volume(point: str, options: str, root: str = "/srv/data") -> Any:
    return mount(point, options=options, root=root)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (volume("/data", "ro,nosuid,nodev,idmapped"), []),
        (
            volume("/data", "rw,nosuid,nodev,idmapped"),
            ["at /data it sees /run/v without ro"],
        ),
        (
            volume("/data", "ro,nosuid,nodev"),
            ["at /data it sees /run/v without ID maps"],
        ),
        (
            volume("/data", "ro,idmapped"),
            ["at /data it sees /run/v without nodev, nosuid"],
        ),
        (
            volume("/other", "ro,nosuid,nodev,idmapped"),
            ["its /data is not /run/v"],
        ),
        (
            volume("/data", "ro,nosuid,nodev,idmapped", "/srv/data/below"),
            ["its /data is not /run/v"],
        ),
        (
            volume("/data", "ro,nosuid,nodev,idmapped", "/srv/more"),
            [
                "at /data it has /srv/more of a filesystem of the host (ext4)",
                "its /data is not /run/v",
            ],
        ),
    ],
)
def test_volumes(inside: Any, said: list[str]) -> None:
    flags = frozenset({"ro", "nosuid", "nodev"})
    promise = replace(
        PRIVATE,
        views=(*PRIVATE.views, View("/data", "/run/v", "idmapped", flags)),
    )
    found = evidence()
    found = replace(
        found,
        host_mounts=(
            *found.host_mounts,
            volume("/run/v", "ro,nosuid,nodev,idmapped"),
        ),
        mounts=(*found.mounts, inside),
    )
    assert find(found, promise) == said


def test_a_source_that_is_no_mount_point() -> None:
    """The XML of others can have it."""
    promise = replace(PRIVATE, views=(View("/", "/srv/web1"),))
    inside = mount("/", device="8:0", root="/srv/web1")
    found = evidence()
    found = replace(found, mounts=(inside, *found.mounts[1:]), root=inside)
    assert find(found, promise) == []
    other = replace(promise, views=(View("/", "/srv/web2"),))
    assert "its / is not /srv/web2" in find(found, other)


def test_a_volume_that_is_plain_by_promise() -> None:
    inside = volume("/run/x/web1/volume0", "rw,nodev", "/srv/web1/data")
    found = evidence()
    found = replace(
        found,
        host_mounts=(*found.host_mounts, inside),
        mounts=(
            *found.mounts,
            replace(inside, point="/data"),
            # What it has it can mount again.
            volume("/again", "rw,nodev", "/srv/web1/data/below"),
        ),
    )
    assert find(found) == [f"at /data {SEEN}", f"at /again {SEEN}"]
    views = (*PRIVATE.views, View("/data", inside.point, "plain"))
    assert find(found, replace(PRIVATE, views=views)) == []


def test_a_volume_in_the_tree_of_another_view() -> None:
    """The nearer promise counts."""
    inside = volume("/run/v", "ro,nodev,idmapped", "/srv/web1/data")
    lax = volume("/data", "rw,nodev,idmapped", "/srv/web1/data")
    views = (
        *PRIVATE.views,
        View("/data", "/run/v", "idmapped", frozenset({"ro"})),
    )
    promise = replace(PRIVATE, views=views)
    found = evidence()
    found = replace(found, host_mounts=(*found.host_mounts, inside))
    assert (
        find(
            replace(
                found, mounts=(*found.mounts, replace(inside, point="/data"))
            ),
            promise,
        )
        == []
    )
    assert find(replace(found, mounts=(*found.mounts, lax)), promise) == [
        "at /data it sees /run/v without ro"
    ]


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


RECORD = InstanceRecord(
    "web1",
    "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c",
    "/srv/web1",
    IdMaps(ID_MAP, ID_MAP),
    Strategy.IDMAPPED,
    VIEW,
    dropped=("sys_resource", *DROPPED_PRIVATE),
)


def test_what_a_record_promises() -> None:
    assert expected.of_record(RECORD, "") == PRIVATE
    outside = replace(
        RECORD,
        id_maps=None,
        strategy=Strategy.BIND,
        needs=Requirements("host", ("ipc",), ("mknod",), ("/dev/fuse",)),
        devices=(Device("/dev/fuse", "char"),),
    )
    kept = replace(RECORD, needs=Requirements("private", (), ("sys_rawio",)))
    kept = replace(kept, dropped=("sys_resource",))
    assert expected.of_record(kept, "").capabilities == (
        PRIVATE.capabilities | DROPPED_PRIVATE
    )
    assert expected.of_record(outside, "") == replace(
        HOST,
        shared=frozenset({"ipc"}),
        capabilities=HOST.capabilities | {"mknod"},
        devices=outside.devices,
    )


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


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [("idmapped", "idmapped"), ("overlay", "overlay"), ("chown", "plain")],
)
def test_views_of_a_record(strategy: str, kind: str) -> None:
    record = replace(
        RECORD,
        strategy=Strategy(strategy),
        volumes=(
            Volume("/srv/a", "/a"),
            Volume("/srv/b", "/b", "none", readonly=True),
            Volume("/srv/c", "/c", "chown", nosuid=False, nodev=False),
        ),
    )
    views = [
        (each.target, each.kind, {*each.flags})
        for each in expected.of_record(record, "").views
    ]
    assert views == [
        ("/", kind, {"nodev"}),
        ("/a", "idmapped", {"nosuid", "nodev"}),
        ("/b", "plain", {"ro", "nosuid", "nodev"}),
        ("/c", "plain", set()),
    ]


XML = """\
<domain type='lxc' xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>
  <name>other</name>
  <memory unit='KiB'>262143</memory>
  <os><type>exe</type><init>/bin/sh</init></os>
  {more}
  <devices>{devices}
    <filesystem type='mount'>
      <source dir='/srv/other/'/><target dir='/'/>
    </filesystem>
    <filesystem type='ram'>
      <source usage='10'/><target dir='/tmp'/>
    </filesystem>
  </devices>
  {last}
</domain>
"""
ID_MAP_XML = (
    "<idmap><uid start='0' target='{0}' count='65536'/>"
    "<gid start='0' target='{0}' count='65536'/></idmap>"
)


def promised(more: str = "", devices: str = "", last: str = "") -> Expectation:
    text = XML.format(more=more, devices=devices, last=last)
    return expected.of_domain(text)


def test_what_the_xml_of_others_promises() -> None:
    found = promised(
        ID_MAP_XML.format(100000) + "<features><privnet/></features>"
    )
    assert found == Expectation(
        "other",
        IdMaps(ID_MAP, ID_MAP),
        frozenset(),
        frozenset({*CAPABILITIES} - DROPPED),
        (),
        (View("/", "/srv/other"),),
    )


@pytest.mark.parametrize(
    ("devices", "last", "shared"),
    [
        ("", "", {"network"}),
        ("<interface type='ethernet'/>", "", set()),
        (
            "<hostdev mode='capabilities' type='net'><source>"
            "<interface>eth1</interface></source></hostdev>",
            "",
            set(),
        ),
        (
            "<interface type='ethernet'/>",
            "<lxc:namespace><lxc:shareipc type='pid' value='1'/>"
            "<lxc:shareuts type='pid' value='1'/>"
            "<lxc:sharenet type='netns' value='red'/></lxc:namespace>",
            {"network", "ipc", "uts"},
        ),
    ],
)
def test_what_the_xml_of_others_shares(
    devices: str, last: str, shared: set[str]
) -> None:
    assert promised("", devices, last).shared == shared


@pytest.mark.parametrize(
    ("capabilities", "has", "lacks"),
    [
        ("<capabilities policy='allow'/>", {"mknod"}, set()),
        ("<capabilities policy='deny'/>", set(), {"chown"}),
        (
            "<capabilities policy='default'><mknod state='on'/>"
            "<chown state='off'/></capabilities>",
            {"mknod", "kill"},
            {"chown", "sys_time"},
        ),
    ],
)
def test_capabilities_in_the_xml_of_others(
    capabilities: str, has: set[str], lacks: set[str]
) -> None:
    found = promised(f"<features>{capabilities}</features>").capabilities
    assert has <= found
    assert not lacks & found


@pytest.mark.parametrize("name", ["x y", "../null", "null"])
def test_a_disk_of_others_that_breaks_a_rule(name: str) -> None:
    disk = f"<disk type='block'><target dev='{name}'/></disk>"
    with pytest.raises(DomainXmlError, match="<disk>: device"):
        promised("", disk)


def test_xml_of_others_that_breaks_a_rule() -> None:
    with pytest.raises(DomainXmlError, match="host ID 0"):
        promised(ID_MAP_XML.format(0))
