# SPDX-License-Identifier: Apache-2.0
"""Combinations that no domain may have, each with its reason."""

from dataclasses import replace
from typing import Any

import pytest

from lxc_userns.domain import (
    BlockDevice,
    Domain,
    Features,
    Filesystem,
    HostInterface,
    Init,
    Interface,
    SecLabel,
    SharedNamespace,
    SharedNamespaces,
    Tuning,
)
from lxc_userns.exceptions import DomainXmlError
from tests.unit.domain.samples import MAPS, ROOT

INIT = Init("/sbin/init")
PID_1 = SharedNamespace("pid", "1")


def make(**changes: Any) -> Domain:
    arguments: dict[str, Any] = {
        "name": "web1",
        "memory_mib": 64,
        "init": INIT,
        "filesystems": [ROOT],
        "id_maps": MAPS,
    }
    return Domain(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"filesystems": []}, "no filesystem has the target '/'"),
        (
            {"id_maps": None, "filesystems": [Filesystem.mount("/a", "/b")]},
            "the container's root would be the host's",
        ),
        ({"filesystems": [ROOT, ROOT]}, "2 filesystems with the target '/'"),
        (
            {"filesystems": [Filesystem.file("/root.img", "/")]},
            "'/' of type 'file' cannot be mounted in a user namespace",
        ),
        (
            {"filesystems": [ROOT, Filesystem.block("/dev/vdb", "/data")]},
            "filesystem '/data' of type 'block' cannot be mounted",
        ),
        (
            {
                "filesystems": [
                    ROOT,
                    Filesystem.mount("/a", "/b", readonly=True),
                ]
            },
            "filesystem '/b' would be writable, .* mount it read-only on the",
        ),
        (
            {
                "filesystems": [
                    ROOT,
                    Filesystem.bind("/a", "/b", readonly=True),
                ]
            },
            "filesystem '/b' would be writable",
        ),
        (
            {"features": Features(privnet=False)},
            "needs a network namespace; add an interface or features.privnet",
        ),
        (
            {"namespaces": SharedNamespaces(uts=PID_1)},
            "with ID maps no namespace can be shared",
        ),
        (
            {"id_maps": None, "namespaces": SharedNamespaces(net=PID_1)},
            "excludes interfaces and features.privnet",
        ),
        (
            {
                "id_maps": None,
                "features": Features(privnet=False),
                "interfaces": [Interface.bridge("br0")],
                "namespaces": SharedNamespaces(net=PID_1),
            },
            "excludes interfaces",
        ),
        (
            {"init": Init("/init", user=65536, group=0)},
            "user 65536 of init is not in the ID maps",
        ),
        (
            {"init": Init("/init", user="www", group=70000)},
            "group 70000 of init is not in the ID maps",
        ),
        (
            {
                "interfaces": [
                    Interface.bridge("br0", guest_device="eth0"),
                    Interface.bridge("br1"),
                ]
            },
            "2 interfaces with the name 'eth0'",
        ),
        (
            {"interfaces": [HostInterface("eth0"), Interface.ethernet()]},
            "2 interfaces with the name 'eth0'",
        ),
        (
            {"seclabels": [SecLabel.none("dac"), SecLabel.dynamic("dac")]},
            "2 seclabels with the model 'dac'",
        ),
        (
            {"tuning": Tuning(swap_hard_limit_mib=63)},
            r"together \(63 MiB\) are less than the memory \(64 MiB\)",
        ),
        (
            {"tuning": Tuning(hard_limit_mib=9, swap_hard_limit_mib=8)},
            r"\(8 MiB\) are less than the memory \(9 MiB\)",
        ),
    ],
)
def test_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        make(**changes)
    assert str(caught.value).startswith("domain 'web1': ")
    assert "\n" not in str(caught.value)


def test_every_problem_at_once() -> None:
    with pytest.raises(DomainXmlError) as caught:
        make(
            filesystems=[Filesystem.block("/dev/vdb", "/data")],
            features=Features(privnet=False),
        )
    assert str(caught.value).count(";") >= 3
    for word in ("target '/'", "of type 'block'", "network namespace"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"id_maps": None, "features": Features(privnet=False)},
        {
            "features": Features(privnet=False),
            "interfaces": [HostInterface("eno1")],
        },
        {"name": "é" * 32},
        {"filesystems": [replace(ROOT, readonly=True)]},
        {
            "id_maps": None,
            "filesystems": [
                ROOT,
                Filesystem.bind("/a", "/b", readonly=True),
            ],
        },
        {
            "filesystems": [
                ROOT,
                Filesystem.ram("/b", size_kib=1, readonly=True),
            ]
        },
        {"tuning": Tuning(swap_hard_limit_mib=64)},
        {"id_maps": None, "namespaces": SharedNamespaces(uts=PID_1)},
        {"id_maps": None, "filesystems": [Filesystem.file("/a.img", "/")]},
        {"init": Init("/init", user=65535, group=0)},
        {"id_maps": None, "init": Init("/init", user=65536, group=0)},
        {
            "interfaces": [
                Interface.bridge("br0", guest_device="eth1"),
                Interface.bridge("br1"),
            ]
        },
    ],
)
def test_allowed(changes: dict[str, Any]) -> None:
    domain = make(**changes)
    assert Domain.from_xml(domain.to_xml()) == domain


def test_parents_are_mounted_first() -> None:
    targets = ["/a/b", "/x", "/", "/a", "/a/b/c", "/b"]
    domain = make(filesystems=[Filesystem.mount("/s", t) for t in targets])
    assert [filesystem.target for filesystem in domain.filesystems] == [
        *("/", "/x", "/a", "/b", "/a/b", "/a/b/c"),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ""}, "domain name '': must not be empty"),
        ({"name": "a/b"}, "domain name 'a/b': has '/'"),
        ({"name": " a"}, "outer blanks"),
        ({"name": "a\nb"}, r"domain name 'a\\nb': has a control"),
        ({"name": "a\x00"}, r"'a\\x00': has a character that XML cannot"),
        ({"name": "a\ud800"}, "a character that XML cannot carry"),
        ({"name": "a\ufffe"}, "a character that XML cannot carry"),
        ({"name": "n" * 65}, "more than 64 bytes"),
        ({"name": "é" * 33}, "more than 64 bytes"),
        ({"name": 5}, "domain name 5: text is expected"),
        ({"uuid": "web1"}, "domain UUID 'web1': expected a UUID"),
        ({"memory_mib": 0}, "memory in MiB 0: expected a number from 1"),
        ({"memory_mib": 1.5}, "memory in MiB 1.5: expected a number"),
        ({"memory_mib": True}, "memory in MiB True: expected a number"),
        ({"memory_mib": 2**43}, "memory in MiB"),
        ({"vcpus": 0}, "virtual CPUs 0: expected a number from 1 to 65535"),
        ({"vcpus": 65536}, "virtual CPUs"),
        ({"consoles": 0}, "consoles 0: expected a number from 1"),
        ({"emulator": "libvirt_lxc"}, "emulator 'libvirt_lxc': .* absolute"),
        ({"metadata": {"a b": ""}}, "metadata key 'a b': expected letters"),
        ({"metadata": {"": ""}}, "metadata key '': must not be empty"),
        ({"metadata": {"a": "b\nc"}}, r"metadata a 'b\\nc': .* control"),
    ],
)
def test_bad_value(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_uuid_is_in_small_letters() -> None:
    upper = "3E3FCE45-4F53-4FA7-BB32-11F34168B82B"
    assert make(uuid=upper).uuid == upper.lower()


def test_long_values_are_cut_in_errors() -> None:
    with pytest.raises(DomainXmlError) as caught:
        make(name="n" * 100000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"cpu_shares": 1}, "cpu_shares 1: expected a number from 2"),
        ({"cpu_quota_us": 0}, "cpu_quota_us 0: expected a number from 1000"),
        ({"cpu_quota_us": -2}, "cpu_quota_us -2"),
        ({"cpu_period_us": 999}, "cpu_period_us 999"),
        ({"disk_weight": 99}, "disk_weight 99"),
        ({"soft_limit_mib": 0}, "soft_limit_mib 0"),
        ({"cpus": "0-"}, "cpus '0-': expected numbers and ranges"),
        ({"cpus": "\u0660"}, "expected numbers and ranges"),
        ({"cpus": ""}, "cpus '': must not be empty"),
        ({"numa_mode": "strict"}, "given both or neither"),
        ({"numa_nodes": "0"}, "given both or neither"),
        (
            {"numa_mode": "loose", "numa_nodes": "0"},
            "numa_mode 'loose': expected one of interleave, preferred",
        ),
        ({"partition": "machine"}, "partition 'machine': .* absolute path"),
        ({"partition": "/"}, "partition '/': expected one below /"),
        (
            {"disks": [BlockDevice("/dev/vda"), BlockDevice("/dev/vda")]},
            "tuned disks .* twice",
        ),
    ],
)
def test_bad_tuning(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        Tuning(**arguments)


def test_bad_disk_tuning() -> None:
    with pytest.raises(DomainXmlError, match="weight of /dev/vda 1001"):
        BlockDevice("/dev/vda", weight=1001)
    with pytest.raises(DomainXmlError, match="tuned disk 'vda'"):
        BlockDevice("vda")
