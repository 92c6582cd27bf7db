# SPDX-License-Identifier: Apache-2.0
"""Domains with leases that libvirt's hook serves."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine, call_copied
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import end_domain
from tests.functional.lease_host import (
    WHOLE,
    HostFiles,
    both,
    cli,
    container_cli,
    held,
    host_files,
    id_maps_of,
)
from tests.waiting import wait_for

__all__ = ["cli", "container_cli", "host_files"]

pytestmark = pytest.mark.needs("containers")

UUID = "5d66d54a-3cf5-455c-963f-05d90bc16fe7"
OTHER_UUID = "5dce174d-7133-416f-be8b-e0fc2fac55de"
XML = """\
<domain type='lxc'>
  <name>plain</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>128</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <devices>
    <filesystem type='mount'>
      <source dir='{rootfs}'/>
      <target dir='/'/>
    </filesystem>
    <console type='pty'/>
  </devices>
</domain>
"""
NOW = ("gc", "--grace-period", "0")
REMEDY = "gc --grace-period 0 plain"


@pytest.fixture
def leased(
    container_cli: CommandLine, host_files: HostFiles
) -> Iterator[CommandLine]:
    """The program with a pool of two leases, and the hook installed."""
    host_files.give_ranges(2, WHOLE)
    yield from hooked(container_cli)


def hooked(cli: CommandLine) -> Iterator[CommandLine]:
    done = cli("host", "hook", "install")
    assert done.code == 0, done
    yield cli
    cli("host", "hook", "remove")


def converted(cli: CommandLine, rootfs: Path, uuid: str = UUID) -> str:
    """Convert the XML of an ordinary domain."""
    rootfs.parent.chmod(0o700)
    file = rootfs.with_name("plain.xml")
    file.write_text(XML.format(uuid=uuid, rootfs=rootfs))
    done = cli("domain", "convert", file)
    assert (done.code, done.err) == (0, "")
    return done.out


def starts(cli: CommandLine) -> tuple[int, int]:
    """Return the start of the running container's IDs."""
    shown = cli.json("container", "show", "plain")
    assert shown["state"] == "running"
    (_, uid, _), (_, gid, _) = id_maps_of(shown["init_pid"])
    return uid, gid


def wait_for_unmount(cli: CommandLine) -> None:
    wait_for(lambda: not cli.mounts())


def outcome(cli: CommandLine, *arguments: str) -> str:
    (each,) = cli.json(*arguments)
    assert each["instance"] == "plain"
    return str(each["outcome"])


def test_a_lease_from_convert_to_gc(
    leased: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    xml = converted(leased, busybox_rootfs)
    first, _ = both(0, 1, size=WHOLE)
    assert held(leased) == {"plain": first}
    domain = libvirt_connection.defineXML(xml)
    prepared = leased("domain", "prepare", "plain")
    assert (prepared.code, prepared.err) == (0, "")
    for _ in range(2):
        domain.create()
        assert starts(leased) == first
        assert leased.json(*NOW) == []
        end_domain(domain)
        wait_for_unmount(leased)
        # What is defined keeps it, stopped or not.
        assert leased.json(*NOW) == []
    domain.undefine()
    assert outcome(leased, "gc") == "waiting"
    # Defined anew in between, it has what it had.
    domain = libvirt_connection.defineXML(xml)
    domain.create()
    assert starts(leased) == first
    assert leased.json(*NOW) == []
    domain.undefine()  # It goes on as a transient one.
    assert leased.json(*NOW) == []
    end_domain(domain)
    wait_for_unmount(leased)
    assert outcome(leased, "gc") == "waiting"
    assert held(leased) == {"plain": first}
    assert outcome(leased, *NOW) == "returned"
    assert held(leased) == {}
    assert [*leased.state.glob("instances/*")] == []
    assert leased.json(*NOW) == []


def test_a_transient_domain(
    leased: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """virsh create; libvirt forgets it when it ends, and its lease waits."""
    xml = converted(leased, busybox_rootfs)
    first, _ = both(0, 1, size=WHOLE)
    for _ in range(2):
        domain = libvirt_connection.createXML(xml)
        assert starts(leased) == first
        assert leased.json(*NOW) == []
        end_domain(domain)
        wait_for_unmount(leased)
        assert outcome(leased, "gc") == "waiting"
        assert held(leased) == {"plain": first}
    assert outcome(leased, *NOW) == "returned"
    # Its XML has host IDs that it was not given, by then.
    with pytest.raises(libvirt.libvirtError, match="lxc-userns: plain: "):
        libvirt_connection.createXML(
            xml.replace(f"'{first[0]}'", f"'{first[0] + WHOLE}'")
        )
    wait_for_unmount(leased)


@pytest.mark.parametrize("kind", ["leased", "fixed"])
def test_a_new_domain_of_the_name_of_an_undefined_one(
    kind: str,
    request: pytest.FixtureRequest,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """The record of the other is named, with what removes it."""
    cli: CommandLine = request.getfixturevalue(kind)
    xml = converted(cli, busybox_rootfs)
    domain = libvirt_connection.defineXML(xml)
    domain.create()
    end_domain(domain)
    wait_for_unmount(cli)
    domain.undefine()
    # By hand, and as it is meant to be.
    domain = libvirt_connection.defineXML(xml.replace(UUID, OTHER_UUID))
    try:
        with pytest.raises(libvirt.libvirtError) as caught:
            domain.create()
        assert f" {cli.config} {REMEDY}" in str(caught.value)
        plain = XML.format(uuid=OTHER_UUID, rootfs=busybox_rootfs)
        domain = libvirt_connection.defineXML(plain)
        convert = ("domain", "convert", "plain", "--in-place")
        error = cli(*convert).error()
        assert error.startswith("plain: ")
        assert error.endswith(REMEDY)
        assert UUID in error
        copied = call_copied(error)
        assert (copied.code, copied.err) == (0, "")
        assert UUID in copied.out
        assert cli.json(*NOW, "plain") == []
        done = cli(*convert)
        assert (done.code, done.err) == (0, "")
        domain.create()
        starts(cli)
        assert cli.json(*NOW) == []
    finally:
        end_domain(domain)
        domain.undefine()
    wait_for_unmount(cli)


@pytest.mark.parametrize("kind", ["leased", "fixed"])
def test_a_domain_that_gets_another_name(
    kind: str,
    request: pytest.FixtureRequest,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """It stops at its start, and nothing is taken from what it was."""
    cli: CommandLine = request.getfixturevalue(kind)
    xml = converted(cli, busybox_rootfs)
    domain = libvirt_connection.defineXML(xml)
    domain.create()
    first = starts(cli)
    end_domain(domain)
    wait_for_unmount(cli)
    with pytest.raises(libvirt.libvirtError, match="not supported by"):
        domain.rename("other")
    domain.undefine()
    renamed = xml.replace("<name>plain<", "<name>other<")
    renamed = renamed.replace("/plain/", "/other/")
    domain = libvirt_connection.defineXML(renamed)
    try:
        with pytest.raises(libvirt.libvirtError) as caught:
            domain.create()
        reason = "its UUID is that of the instance plain; define it by that"
        assert f"lxc-userns: other: {reason}" in str(caught.value)
        for command in (("convert", "--in-place"), ("prepare",)):
            told = cli("domain", *command, "other").error()
            assert told.startswith(f"other: {reason}")
        states = {e["name"]: e["state"] for e in cli.json("container", "list")}
        assert states == {"other": "stopped", "plain": "incomplete"}
        assert cli.json(*NOW) == []
        # By its name again, it is what it was.
        domain.undefine()
        domain = libvirt_connection.defineXML(xml)
        domain.create()
        assert starts(cli) == first
        end_domain(domain)
        wait_for_unmount(cli)
        domain.undefine()
        # Or it is another one from now on, with ID maps of its own.
        anew = re.sub("<idmap>.*</idmap>", "", renamed, flags=re.DOTALL)
        domain = libvirt_connection.defineXML(anew)
        assert call_copied(str(caught.value)).code == 0
        assert cli("domain", "convert", "--in-place", "other").code == 0
        domain.create()
        (shown,) = cli.json("container", "list")
        assert (shown["name"], shown["state"]) == ("other", "running")
    finally:
        with suppress(libvirt.libvirtError):
            end_domain(domain)
        domain.undefine()
    wait_for_unmount(cli)


@pytest.fixture
def fixed(command_line: CommandLineFactory) -> Iterator[CommandLine]:
    """The program with ID maps that are for all, and the hook installed."""
    yield from hooked(command_line(""))
