# SPDX-License-Identifier: Apache-2.0
"""libvirt takes every domain that we edit, and all that is put into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest
from hypothesis import HealthCheck, given, settings
from oslo_config import cfg

from lxc_userns import InstanceRequest, UserNamespaceManager, Volume, domain
from lxc_userns import register_opts as register
from lxc_userns.exceptions import DomainConflictError, DomainXmlError
from tests.functional.command_line import BASE, COUNT, CommandLine
from tests.functional.guest import ask
from tests.unit.domain import strategies
from tests.unit.domain.samples import DOCUMENTS, PUNCHED_MAPS, promise
from tests.unit.domain.test_apply import CASES

pytestmark = pytest.mark.needs("private-libvirtd")

UUID = "0c4d7c3e-6f0c-4a51-9c1e-0de2d2a6b0f3"
#: What an operator writes by hand, for a root filesystem and a directory.
FOREIGN = """<?xml version='1.0'?>
<!-- made by hand -->
<domain type='lxc' xmlns:o="urn:other">
  <name>foreign</name>
  <metadata><o:note owner='a &amp; b'/></metadata>
  <memory unit='MiB'>64</memory>
  <os>
    <type>exe</type>
    <init>/bin/sleep</init>
    <initarg>1000</initarg>
  </os>
  <devices>
    <filesystem type='mount' accessmode='passthrough'>
      <source dir='{rootfs}'/>
      <target dir='/'/>
    </filesystem>
    <filesystem type='ram'>
      <source usage='64' units='KiB'/>
      <target dir='/data/scratch'/>
    </filesystem>
    <console type='pty'/>
  </devices>
</domain>
"""


@contextmanager
def defined(
    connection: libvirt.virConnect, domain_xml: str
) -> Iterator[libvirt.virDomain]:
    """Define a domain, by libvirt's schema and rules; undefine it again."""
    handle = connection.defineXMLFlags(
        domain_xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    )
    try:
        yield handle
    finally:
        handle.undefine()


def check_defined(
    connection: libvirt.virConnect, edited: str, wanted: domain.DomainParts
) -> None:
    """The domain that libvirt makes of it needs no other edit."""
    with defined(connection, edited) as handle:
        theirs = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert domain.apply(theirs, wanted) == theirs
    assert domain.read_id_maps(theirs) == domain.read_id_maps(edited)
    assert domain.read_marker(theirs) == wanted.marker


@pytest.mark.parametrize(
    "name", [name for name, (_, conflicts) in CASES.items() if not conflicts]
)
def test_sample(libvirt_connection: libvirt.virConnect, name: str) -> None:
    wanted = promise(name, **CASES[name][0])
    edited = domain.apply(DOCUMENTS[name], wanted)
    check_defined(libvirt_connection, edited, wanted)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(made=strategies.documents)
def test_every_form(
    libvirt_connection: libvirt.virConnect, made: strategies.Document
) -> None:
    wanted = strategies.PRIVATE
    try:
        edited = domain.apply(made.text, wanted)
    except DomainConflictError:
        return
    check_defined(libvirt_connection, edited, wanted)


def test_added_id_maps(libvirt_connection: libvirt.virConnect) -> None:
    """XML of libvirt's, edited, is taken, and nothing else changed."""
    with defined(libvirt_connection, DOCUMENTS["host-mode"]) as handle:
        text = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    edited = domain.add_id_maps(text, PUNCHED_MAPS)
    with defined(libvirt_connection, edited) as handle:
        theirs = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    # With libvirt's own quotes: a fixed point.
    assert domain.add_id_maps(theirs, PUNCHED_MAPS) == theirs
    found = domain.read_id_maps(theirs)
    assert found is not None
    assert sorted(found.uid) == sorted(PUNCHED_MAPS.uid)
    assert sorted(found.gid) == sorted(PUNCHED_MAPS.gid)
    added = {"idmap>", "uid ", "gid ", "features>", "privnet/>"}
    assert [
        line
        for line in theirs.splitlines()
        if not line.strip(" </").startswith(tuple(added))
    ] == text.splitlines()


@pytest.mark.needs("containers")
@pytest.mark.parametrize("strategy", ["idmapped", "overlay", "chown"])
def test_foreign_domain_runs(
    libvirt_connection: libvirt.virConnect,
    busybox_rootfs: Path,
    tmp_path: Path,
    reachable_path: Path,
    strategy: str,
) -> None:
    """A compute service's own domain runs as was promised, and reboots."""
    cli = CommandLine.make(tmp_path, reachable_path / "run")
    conf = cfg.ConfigOpts()
    register(conf)
    conf([], default_config_files=[str(cli.config)])
    manager = UserNamespaceManager(conf)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("data")
    os.chmod(tmp_path, 0o700)
    request = InstanceRequest(
        "foreign",
        UUID,
        str(busybox_rootfs),
        strategy=strategy,
        volumes=(Volume(str(tmp_path / "data"), "/data", owned=True),),
    )
    text = FOREIGN.format(rootfs=busybox_rootfs)
    prepared = manager.prepare(request)
    edited = prepared.apply_to(text)
    assert prepared.apply_to(edited) == edited
    assert "<metadata>\n    <lxc-userns:container" in edited
    assert "<o:note owner='a &amp; b'/></metadata>" in edited
    handle = libvirt_connection.defineXMLFlags(
        edited, libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    )
    try:
        handle.create()
        found = manager.verify(prepared, started=True)
        assert found.uid_map == f"0:{BASE}:{COUNT}"
        script = "cat /data/file; stat -c ' %u' /data/file /bin; df -a"
        said = ask(found.pid, script)
        assert said.split()[:3] == ["data", "0", "0"]
        assert "/data/scratch" in said
        # What libvirt has of it now, it takes back.
        theirs = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        assert prepared.apply_to(theirs) == theirs
    finally:
        if handle.isActive():
            handle.destroy()
        handle.undefine()
        manager.release(prepared)
    assert cli.mounts() == []


@pytest.mark.parametrize(
    ("old", "new", "error", "reason"),
    [
        ("type='lxc'", "type='kvm'", DomainXmlError, "'lxc', which alone has"),
        ("foreign<", "other<", DomainConflictError, "<name> 'other'"),
        ("/data/scratch", "/proc/sys", DomainConflictError, "'/proc/sys'"),
    ],
)
def test_contradiction_leaves_all_as_it_is(
    busybox_rootfs: Path,
    tmp_path: Path,
    reachable_path: Path,
    old: str,
    new: str,
    error: type[Exception],
    reason: str,
) -> None:
    cli = CommandLine.make(tmp_path, reachable_path / "run")
    conf = cfg.ConfigOpts()
    register(conf)
    conf([], default_config_files=[str(cli.config)])
    manager = UserNamespaceManager(conf)
    prepared = manager.prepare(
        InstanceRequest("foreign", UUID, str(busybox_rootfs))
    )
    before = cli.mounts()
    try:
        with pytest.raises(error, match=reason):
            prepared.apply_to(FOREIGN.replace(old, new))
        assert cli.mounts() == before
        assert cli.services().store.load("foreign") == prepared.record
    finally:
        manager.release(prepared)
