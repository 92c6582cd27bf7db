# SPDX-License-Identifier: Apache-2.0
"""Values that the parts of a domain refuse, each with its reason."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.domain import (
    Capabilities,
    Filesystem,
    HostInterface,
    Init,
    Interface,
    SecLabel,
    SharedNamespace,
    SharedNamespaces,
)
from lxc_userns.exceptions import DomainXmlError


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"path": "init"}, "init 'init': expected an absolute path"),
        ({"path": ""}, "init '': must not be empty"),
        ({"path": "/"}, "init '/': is a directory"),
        ({"path": "/a\tb"}, r"init '/a\\tb': has a control character"),
        ({"args": "-c"}, "arguments of init '-c': a sequence"),
        ({"args": [""]}, "argument of init '': libvirt takes no empty one"),
        ({"args": ["a\x1bb"]}, r"'a\\x1bb': has a character that XML"),
        ({"args": ["a\rb"]}, r"'a\\rb': has a carriage return"),
        ({"args": [1]}, "argument of init 1: text is expected"),
        ({"env": {"1A": "x"}}, "environment variable '1A': expected letters"),
        ({"env": {"A=B": "x"}}, "environment variable 'A=B'"),
        ({"env": {"A": ""}}, "environment variable A '': .* no empty value"),
        ({"env": {"A": "x&y"}}, "environment variable A 'x&y': .* unescaped"),
        (
            {"env": {"A": "</initenv><inituser>root</inituser>"}},
            "environment variable A .* unescaped",
        ),
        ({"env": {"A": "x]]>"}}, "environment variable A .* unescaped"),
        ({"env": {"A": "x\x00"}}, "has a character that XML cannot carry"),
        ({"cwd": "root"}, "working directory of init 'root'"),
        ({"user": "www"}, "user and group are given both or neither"),
        ({"group": 0}, "user and group are given both or neither"),
        ({"user": "w.w", "group": 0}, "user of init 'w.w': expected a name"),
        ({"user": "1000", "group": 0}, "user of init '1000': expected"),
        ({"user": 0, "group": -1}, "group of init -1: expected a number"),
        ({"user": 2**32 - 1, "group": 0}, "user of init 4294967295"),
    ],
)
def test_bad_init(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        Init(**({"path": "/sbin/init"} | arguments))
    assert "\n" not in str(caught.value)


def test_init_starts_in_the_root_anyway() -> None:
    assert Init("/init", cwd="/") == Init("/init")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Filesystem.mount("a", "/"), "source of filesystem /"),
        (lambda: Filesystem.mount("", "/a"), "source .* must not be empty"),
        (lambda: Filesystem.mount("/a\n", "/"), "has a control character"),
        (lambda: Filesystem.bind("/a", "/"), "type 'bind': libvirt has none"),
        (lambda: Filesystem.ram("/", size_kib=1), "type 'ram': libvirt has"),
        (lambda: Filesystem.ram("/a", size_kib=0), "size of filesystem /a 0"),
        (lambda: Filesystem("ram", "/a"), "size of filesystem /a 0"),
        (lambda: Filesystem("ram", "/a", "/b"), "memory has no source"),
        (lambda: Filesystem("mount", "/a"), "source of filesystem /a ''"),
        (lambda: Filesystem("mount", "/", "/a", size_kib=1), "in memory"),
        (lambda: Filesystem("mount", "/", "/a", driver="loop"), "no driver"),
        (lambda: Filesystem("volume", "/", "/a"), "type 'volume': expected"),
        (lambda: Filesystem("template", "/", "/a"), "one of bind, block, fil"),
        (lambda: Filesystem.file("/a", "/", driver="qemu"), "driver 'qemu'"),
        (lambda: Filesystem.file("/a", "/", format="zip"), "format 'zip'"),
        (
            lambda: Filesystem.file("/a", "/", format="qcow2"),
            "image format 'qcow2': driver loop reads only raw; take .* nbd",
        ),
        (lambda: Filesystem("file", "/", "/a"), "filesystem driver ''"),
    ],
)
def test_bad_filesystem(make: Callable[[], Filesystem], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        make()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("data", "expected an absolute path"),
        ("//", "has an empty, '.' or '..' part"),
        ("/data/", "has an empty"),
        ("/a//b", "has an empty"),
        ("/.", "has an empty, '.' or '..' part"),
        ("/a/../b", "has an empty, '.' or '..' part"),
        ("/proc", "libvirt has a mount of its own there"),
        ("/proc/sys/kernel", "libvirt has a mount of its own there"),
        ("/.oldroot", "libvirt has a mount of its own there"),
        ("/dev/pts", "libvirt has a mount of its own there"),
        ("/dev/pts/x", "libvirt has a mount of its own there"),
    ],
)
def test_bad_target(target: str, reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        Filesystem.mount("/srv", target)


@pytest.mark.parametrize("target", ["/dev/shm", "/proc/cpuinfo", "/.old"])
def test_good_target(target: str) -> None:
    assert Filesystem.mount("/srv", target).target == target


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Interface("user"), "interface type 'user': expected one"),
        (lambda: Interface("hostdev", "e0"), "interface type 'hostdev'"),
        (lambda: Interface.network(""), "source of network interface ''"),
        (lambda: Interface.bridge("a/b"), "source of bridge interface 'a/b'"),
        (lambda: Interface.bridge(".."), "bridge interface '..': expected a"),
        (lambda: Interface.bridge("n" * 16), "expected a device name"),
        (lambda: Interface("ethernet", "eth0"), "it has none"),
        (lambda: Interface.bridge("b", mac="1:2"), "MAC address '1:2'"),
        (
            lambda: Interface.bridge("b", mac="01:00:5e:00:00:01"),
            "MAC address .* no multicast",
        ),
        (lambda: Interface.bridge("b", host_device="a b"), "host device"),
        (lambda: Interface.bridge("b", guest_device="a b"), "guest device"),
        (lambda: Interface.bridge("b", nwfilter="1"), "network filter '1'"),
        (lambda: Interface.bridge("b", openvswitch_id="1"), "Open vSwitch"),
        (
            lambda: Interface("network", "b", openvswitch_id="1"),
            "Open vSwitch port of network interface '1': only a bridge",
        ),
        (
            lambda: Interface("direct", "e", nwfilter="f", mode="vepa"),
            "network filter of direct interface 'f': libvirt would ignore",
        ),
        (lambda: Interface.direct("e", mode="x"), "mode of direct interface"),
        (lambda: Interface("bridge", "b", mode="vepa"), "only direct has"),
        (
            lambda: Interface.bridge("b", addresses=["192.0.2.7"]),
            "interface address '192.0.2.7': expected address/prefix",
        ),
        (
            lambda: Interface.bridge("b", addresses=["fe80::1%e/64"]),
            "expected address/prefix",
        ),
        (
            lambda: Interface.bridge("b", addresses=["192.0.2.300/24"]),
            "interface address '192.0.2.300/24'",
        ),
        (
            lambda: Interface.bridge("b", gateways=["router"]),
            "gateway: 'router' does not appear",
        ),
        (
            lambda: Interface.bridge("b", gateways=["10.0.0.1", "10.0.0.2"]),
            "gateways .* only one of a family",
        ),
        (lambda: HostInterface("a b"), "host interface 'a b'"),
    ],
)
def test_bad_interface(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        make()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Capabilities("none"), "capabilities policy 'none'"),
        (lambda: Capabilities(keep="chown"), "a collection is expected"),
        (lambda: Capabilities(keep=["CAP_CHOWN"]), "capability 'CAP_CHOWN'"),
        (lambda: Capabilities(drop=["bpf"]), "capability 'bpf': expected one"),
        (
            lambda: Capabilities(keep=["kill"], drop=["kill", "chown"]),
            r"capabilities \['kill'\]: cannot be both kept and dropped",
        ),
        (lambda: SecLabel("auto", "dac"), "seclabel type 'auto'"),
        (lambda: SecLabel.dynamic(""), "seclabel model ''"),
        (lambda: SecLabel.static("dac", ""), "seclabel label ''"),
        (lambda: SecLabel("static", "dac"), "a static one has a label"),
        (lambda: SecLabel("none", "dac"), "a dynamic one relabels"),
        (lambda: SecLabel("none", "dac", "x"), "one of type none has not"),
        (lambda: SecLabel("dynamic", "dac", None, False), "one relabels"),
        (lambda: SharedNamespace("path", "/"), "shared namespace 'path'"),
        (lambda: SharedNamespace("pid", "0"), "the ID of a process"),
        (lambda: SharedNamespace("netns", ".."), "below /run/netns"),
        (lambda: SharedNamespace("netns", "a/b"), "below /run/netns"),
        (lambda: SharedNamespace("name", "a'/><b x='"), "name of a domain"),
        (
            lambda: SharedNamespaces(uts=SharedNamespace("netns", "blue")),
            "kind of shared namespace 'netns': expected one of name, pid",
        ),
    ],
)
def test_bad_feature(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason):
        make()


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    """lxml's own complaint never comes through."""
    for make in (
        lambda: Init(f"/{text}", args=[text], env={"A": text}, cwd=text),
        lambda: Init("/init", args=[text]),
        lambda: Init("/init", env={"A": text}),
        lambda: Filesystem.mount(f"/{text}", f"/{text}"),
        lambda: Interface.network(text),
        lambda: SecLabel.static("dac", text),
    ):
        with contextlib.suppress(DomainXmlError):
            assert make().to_element() is not None
