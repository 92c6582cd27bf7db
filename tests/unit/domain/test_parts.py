# SPDX-License-Identifier: Apache-2.0
"""Values that the parts of a domain refuse, each with its reason."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from lxc_userns.domain import (
    Capabilities,
    Domain,
    Filesystem,
    Init,
    Interface,
    read_bridges,
)
from lxc_userns.exceptions import DomainXmlError
from tests.unit.domain.samples import SCHEMA, UUID


def make(**changes: Any) -> Domain:
    arguments: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "memory_mib": 64,
        "init": Init("/sbin/init"),
    }
    return Domain(**(arguments | changes))


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
        ({"args": [1]}, "argument of init 1: expected text"),
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
    ],
)
def test_bad_init(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        Init(**({"path": "/sbin/init"} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Filesystem("a", "/"), "source of filesystem /"),
        (lambda: Filesystem("", "/a"), "source .* must not be empty"),
        (lambda: Filesystem("/a\n", "/"), "has a control character"),
        (lambda: Interface("user", "a"), "interface type 'user': expected"),
        (lambda: Interface.network(""), "source of network interface ''"),
        (lambda: Interface.bridge("a/b"), "source of bridge interface 'a/b'"),
        (lambda: Interface.bridge(".."), "bridge interface '..': expected a"),
        (lambda: Interface.bridge("n" * 16), "expected a device name"),
        (lambda: Capabilities("none"), "capabilities policy 'none'"),
        (lambda: Capabilities(keep="chown"), "a collection is expected"),
        (lambda: Capabilities(keep=["CAP_CHOWN"]), "capability 'CAP_CHOWN'"),
        (lambda: Capabilities(drop=["bpf"]), "capability 'bpf': expected one"),
        (
            lambda: Capabilities(keep=["kill"], drop=["kill", "chown"]),
            r"capabilities \['kill'\]: cannot be both kept and dropped",
        ),
    ],
)
def test_bad_part(make: Callable[[], object], reason: str) -> None:
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
        Filesystem("/srv", target)


@pytest.mark.parametrize("target", ["/dev/shm", "/proc/cpuinfo", "/.old"])
def test_good_target(target: str) -> None:
    assert Filesystem("/srv", target).target == target


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
        ({"name": 5}, "domain name 5: expected text"),
        ({"uuid": ""}, "domain UUID '': must not be empty"),
        ({"memory_mib": 0}, "memory in MiB 0: expected a number from 1"),
        ({"memory_mib": 1.5}, "memory in MiB 1.5: expected a number"),
        ({"memory_mib": True}, "memory in MiB True: expected a number"),
        ({"memory_mib": 2**43}, "memory in MiB"),
        ({"cpus": 0.009}, "CPUs 0.009: expected 0.01 to 65536"),
        ({"cpus": float("nan")}, "CPUs nan: expected 0.01 to 65536"),
        ({"cpus": 65537}, "CPUs 65537: expected"),
    ],
)
def test_bad_value(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomainXmlError, match=reason) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_long_values_are_cut_in_errors() -> None:
    with pytest.raises(DomainXmlError) as caught:
        make(name="n" * 100000)
    assert len(str(caught.value)) < 250


def test_domain() -> None:
    made = make(
        init=Init("/bin/sh", ["-c", "a < 'b'\n"], {"A": "hello world"}),
        interfaces=[Interface.bridge("br0"), Interface.network("a network")],
        cpus=0.5,
    )
    assert (
        made.to_xml()
        == f"""<domain type="lxc">
  <name>web1</name>
  <uuid>{UUID}</uuid>
  <memory unit="MiB">64</memory>
  <vcpu>1</vcpu>
  <cputune>
    <period>100000</period>
    <quota>50000</quota>
  </cputune>
  <os>
    <type>exe</type>
    <init>/bin/sh</init>
    <initarg>-c</initarg>
    <initarg>a &lt; 'b'
</initarg>
    <initenv name="A">hello world</initenv>
  </os>
  <devices>
    <interface type="bridge">
      <source bridge="br0"/>
      <link state="up"/>
    </interface>
    <interface type="network">
      <source network="a network"/>
      <link state="up"/>
    </interface>
    <console type="pty">
      <target type="lxc"/>
    </console>
  </devices>
</domain>
"""
    )
    assert read_bridges(made.to_xml()) == ("br0",)
    if SCHEMA.exists():
        schema = etree.RelaxNG(file=str(SCHEMA))
        schema.assertValid(etree.fromstring(made.to_xml()))


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    """lxml's own complaint never comes through."""
    for make_part in (
        lambda: Init(f"/{text}", args=[text], env={"A": text}),
        lambda: Init("/init", args=[text]),
        lambda: Init("/init", env={"A": text}),
        lambda: Filesystem(f"/{text}", f"/{text}"),
        lambda: Interface.network(text),
    ):
        with contextlib.suppress(DomainXmlError):
            assert make_part().to_element() is not None
