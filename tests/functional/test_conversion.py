# SPDX-License-Identifier: Apache-2.0
"""Domains of others, converted for libvirt's hook."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from lxc_userns.domain import read_id_maps, read_marker
from tests.functional import guest, images
from tests.functional.command_line import BASE, CommandLine, call_copied
from tests.functional.conftest import CommandLineFactory

pytestmark = pytest.mark.needs("containers")

XML = """\
<domain type='lxc'>
  <name>plain</name>
  <!-- of somebody else -->
  <uuid>5d66d54a-3cf5-455c-963f-05d90bc16fe7</uuid>
  <memory unit='MiB'>128</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <devices>
    <filesystem type='{kind}'>
      <source {attribute}='{rootfs}'/>
      <target dir='/'/>
    </filesystem>
    {devices}
    <console type='pty'/>
  </devices>
</domain>
"""


@pytest.fixture
def cli(command_line: CommandLineFactory) -> Iterator[CommandLine]:
    """The program, with the hook installed, and no ID maps but leases."""
    made = command_line("")
    assert made("host", "hook", "install").code == 0
    yield made
    made("host", "hook", "remove")


def make_xml(rootfs: Path, devices: str = "") -> str:
    rootfs.parent.chmod(0o700)
    return XML.format(
        kind="mount", attribute="dir", rootfs=rootfs, devices=devices
    )


@pytest.fixture
def converted(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> libvirt.virDomain:
    """A domain that was converted in place."""
    domain = libvirt_connection.defineXML(make_xml(busybox_rootfs))
    assert cli("domain", "convert", "plain", "--in-place").code == 0
    return domain


def convert(
    cli: CommandLine, path: Path, xml: str, *options: str
) -> tuple[str, str]:
    """Convert XML; return what is printed, and what is said of errors."""
    file = path / "domain.xml"
    file.write_text(xml)
    done = cli("domain", "convert", file, *options)
    return done.out, done.err


def uid_map(domain: libvirt.virDomain) -> list[str]:
    children = Path(f"/proc/{domain.ID()}/task/{domain.ID()}/children")
    init = children.read_text().split()[0]
    return Path(f"/proc/{init}/uid_map").read_text().split()


@pytest.mark.parametrize("strategy", ["idmapped", "overlay", "chown"])
def test_from_a_file(
    strategy: str,
    cli: CommandLine,
    tmp_path: Path,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("data")
    volume = (
        f"<filesystem type='mount'><source dir='{tmp_path}/data'/>"
        "<target dir='/data'/></filesystem>"
    )
    xml = make_xml(busybox_rootfs, volume)
    out, err = convert(cli, tmp_path, xml, "--strategy", strategy)
    assert err == ""
    assert "<!-- of somebody else -->" in out
    assert convert(cli, tmp_path, out) == (out, "")
    assert (busybox_rootfs / "bin").stat().st_uid == 0
    domain = libvirt_connection.defineXML(out)
    try:
        if strategy == "chown":
            with pytest.raises(libvirt.libvirtError, match="domain prepare"):
                domain.create()
            done = cli("domain", "prepare", "plain")
            assert (done.code, done.err) == (0, "")
        domain.create()
        assert uid_map(domain) == ["0", str(BASE), "65536"]
        assert cli.json("container", "show", "plain")["state"] == "running"
        pid = cli.json("container", "show", "plain")["init_pid"]
        assert guest.ask(pid, "cat /data/file") == "data"
    finally:
        cli("container", "destroy", "plain")


def test_in_place_and_back(
    cli: CommandLine,
    tmp_path: Path,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    domain = libvirt_connection.defineXML(make_xml(busybox_rootfs))
    try:
        before = domain.XMLDesc()
        for _ in range(2):
            done = cli("domain", "convert", "plain", "--in-place")
            assert (done.code, done.err, done.out) == (0, "", "")
        assert read_id_maps(domain.XMLDesc()) is not None
        domain.create()
        told = cli("domain", "convert", "plain", "--in-place", "--revert")
        assert told.error() == "plain: is running; stop it first"
        domain.destroy()
        done = cli("domain", "convert", "plain", "--in-place", "--revert")
        assert (done.code, done.err) == (0, "")
        assert domain.XMLDesc() == before
        told = cli("domain", "convert", "plain", "--in-place", "--revert")
        assert "was not converted in place" in told.error()
    finally:
        domain.undefine()


def test_what_was_kept_goes_with_the_instance(
    cli: CommandLine, converted: libvirt.virDomain
) -> None:
    assert cli("domain", "prepare", "plain").code == 0
    (kept,) = (cli.state / "converted").iterdir()
    assert kept.name == f"{converted.UUIDString()}.xml"
    assert cli.json("gc", "--grace-period", "0") == []
    assert kept.exists()
    converted.undefine()
    (found,) = cli.json("gc", "--grace-period", "0")
    assert found["outcome"] == "removed"
    assert not kept.exists()


def test_what_was_kept_of_one_that_was_never_prepared(
    cli: CommandLine,
    converted: libvirt.virDomain,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """There is neither a record nor a lease that it could go with."""
    xml = converted.XMLDesc()
    (kept,) = (cli.state / "converted").iterdir()
    assert cli.json("gc", "--grace-period", "0") == []
    converted.undefine()
    (waiting,) = cli.json("gc", "plain")
    assert (waiting["instance"], waiting["uuid"]) == ("plain", kept.stem)
    assert waiting["outcome"] == "waiting"
    # It was about to be defined anew.
    domain = libvirt_connection.defineXML(xml)
    assert cli.json("gc", "--grace-period", "0") == []
    done = cli("domain", "convert", "plain", "--in-place", "--revert")
    assert done.code == 0
    assert cli("domain", "convert", "plain", "--in-place").code == 0
    domain.undefine()
    assert cli.json("lease", "gc", "--grace-period", "0") == []
    assert cli.json("gc", "other", "--grace-period", "0") == []
    (removed,) = cli.json("gc", "--grace-period", "0")
    assert removed["outcome"] == "removed"
    assert not kept.exists()
    assert cli.json("gc", "--grace-period", "0") == []


def test_gc_that_is_killed_before_it_has_done_all(
    cli: CommandLine, converted: libvirt.virDomain
) -> None:
    """The next one finds what the record does not lead to any more."""
    assert cli("domain", "prepare", "plain").code == 0
    converted.undefine()
    script = """
import os, sys
from lxc_userns.instances.originals import OriginalDomains
OriginalDomains.forget = lambda self, uuid: os.kill(os.getpid(), 9)
from lxc_userns.cli.main import main
main(["--config-file", sys.argv[1], "gc", "--grace-period", "0"])
"""
    argv = [sys.executable, "-c", script, str(cli.config)]
    assert subprocess.run(argv, timeout=60, check=False).returncode == -9
    assert [*(cli.state / "instances").iterdir()] == []
    left = {each.name for each in (cli.state / "locks").iterdir()}
    assert left == {"container-plain", "instance-plain"}
    (removed,) = cli.json("gc", "--grace-period", "0")
    assert removed["outcome"] == "removed"
    assert [*(cli.state / "converted").iterdir()] == []
    # No one else would ever take them: the instance is gone.
    assert [*(cli.state / "locks").iterdir()] == []


def test_an_image(
    cli: CommandLine,
    tmp_path: Path,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    image = tmp_path / "image"
    images.make_image("ext4", image, 64, root=busybox_rootfs)
    xml = XML.format(kind="file", attribute="file", rootfs=image, devices="")
    out, err = convert(cli, tmp_path, xml)
    assert err == ""
    domain = libvirt_connection.defineXML(out)
    try:
        domain.create()
        assert uid_map(domain) == ["0", str(BASE), "65536"]
    finally:
        cli("container", "destroy", "plain")


@pytest.mark.parametrize("kind", ["file", "block"])
def test_an_image_that_the_kernel_does_not_mount(
    kind: str, cli: CommandLine, tmp_path: Path
) -> None:
    """It is refused before anything is leased or defined."""
    image = tmp_path / "image"
    image.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(4096))
    attribute = {"file": "file", "block": "dev"}[kind]
    xml = XML.format(kind=kind, attribute=attribute, rootfs=image, devices="")
    out, err = convert(cli, tmp_path, xml)
    assert out == ""
    assert f"{image}: is a qcow2 image, and no raw image" in err
    remedy = f"qemu-img convert -f qcow2 -O raw {image} {image}.raw"
    assert remedy in err
    assert cli.json("lease", "list") == []


def test_reasons_that_keep_a_domain_from_it(
    cli: CommandLine, tmp_path: Path, busybox_rootfs: Path
) -> None:
    bad = (
        "<hostdev mode='capabilities' type='misc'>"
        "<source><char>/dev/kmsg</char></source></hostdev>"
    )
    xml = make_xml(busybox_rootfs, bad).replace(
        "<devices>",
        "<features><capabilities policy='default'>"
        "<sys_module state='on'/></capabilities></features><devices>",
    )
    out, err = convert(cli, tmp_path, xml)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "/dev/kmsg" in err
    assert "sys_module" in err
    assert cli.json("lease", "list") == []


@pytest.mark.parametrize("is_piped", [False, True])
def test_a_relative_source(
    is_piped: bool,
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """It is not taken for one of the caller's directory, as it is not.

    libvirt takes it, and does not find it when the domain starts.
    """
    absolute = make_xml(busybox_rootfs)
    xml = absolute.replace(f"{busybox_rootfs}'", f"{busybox_rootfs.name}'")
    file = busybox_rootfs.with_name("domain.xml")
    file.write_text(xml)
    place = busybox_rootfs.parent
    with file.open() as stream:
        source, given = ("-", stream) if is_piped else (file.name, None)
        done = cli("domain", "convert", source, stdin=given, cwd=place)
    assert done.out == ""
    told = f"domain plain: <source> '{busybox_rootfs.name}': would be looked "
    assert done.error().startswith(told)
    assert cli.json("lease", "list") == []
    domain = libvirt_connection.defineXML(xml)
    try:
        with pytest.raises(libvirt.libvirtError, match="No such file"):
            domain.create()
        refused = cli("domain", "convert", "plain", "--in-place", cwd=place)
        assert refused.error().startswith(told)
        assert "lxc-userns" not in domain.XMLDesc()
    finally:
        domain.undefine()


def test_autostart(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs)
    domain = libvirt_connection.lookupByName("web")
    for switch, expected in (("on", 1), ("on", 1), ("off", 0)):
        done = cli("container", "autostart", "web", switch)
        assert (done.code, done.err, done.out) == (0, "", "")
        assert domain.autostart() == expected
    assert cli("container", "autostart", "none", "on").code == 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("none", "--in-place"), "none: no such container"),
        (("none", "--in-place", "--revert"), "none: no such container"),
        (("/none",), "/none: No such file or directory"),
        (
            ("none",),
            "none: No such file or directory; the domain of a name is "
            "converted by --in-place",
        ),
    ],
)
def test_what_is_not_there(
    arguments: tuple[str, ...], told: str, cli: CommandLine
) -> None:
    done = cli("domain", "convert", *arguments)
    assert done.code != 0
    assert done.err == f"error: {told}\n"


def test_what_is_kept_is_of_one_domain(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Another that gets its UUID is not what it was."""
    xml = make_xml(busybox_rootfs)
    domain = libvirt_connection.defineXML(xml)
    assert cli("domain", "convert", "plain", "--in-place").code == 0
    assert cli("domain", "prepare", "plain").code == 0
    assert cli("container", "destroy", "plain").code == 0
    assert [*(cli.state / "converted").iterdir()] == []
    domain = libvirt_connection.defineXML(xml)
    assert cli("domain", "convert", "plain", "--in-place").code == 0
    domain.undefine()
    other = xml.replace("<memory", "<title>other</title><memory")
    domain = libvirt_connection.defineXML(other)
    try:
        done = cli("domain", "convert", "plain", "--in-place", "--revert")
        assert "was not converted" in done.error()
        assert "<title>other</title>" in domain.XMLDesc()
    finally:
        domain.undefine()


def test_back_under_another_name(
    cli: CommandLine, converted: libvirt.virDomain
) -> None:
    """It is refused before anything of it is released."""
    xml = converted.XMLDesc()
    converted.undefine()
    other = xml.replace("<name>plain<", "<name>other<")
    connection = converted.connect()
    domain = connection.defineXML(other.replace("/plain/", "/other/"))
    try:
        assert cli("domain", "prepare", "other").code == 0
        convert = ("domain", "convert", "other", "--in-place")
        told = cli(*convert, "--revert").error()
        assert "was called plain when it was converted" in told
        assert [*(cli.state / "instances").iterdir()] != []
        assert cli(*convert).code == 0
    finally:
        domain.undefine()


def test_a_full_disk(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    domain = libvirt_connection.defineXML(make_xml(busybox_rootfs))
    before = domain.XMLDesc()
    cli.state.mkdir(mode=0o700)
    argv = ["mount", "-t", "tmpfs", "-o", "nr_inodes=4,mode=700", "tmpfs"]
    subprocess.run([*argv, cli.state], check=True, timeout=60)
    try:
        told = cli("domain", "convert", "plain", "--in-place").error()
        assert told.startswith(f"[lxc_userns] state_path = {cli.state}: ")
        assert "No space left on device; make room there" in told
        assert domain.XMLDesc() == before
    finally:
        subprocess.run(["umount", cli.state], check=True, timeout=60)
        domain.undefine()


@pytest.mark.parametrize("is_prepared", [True, False])
def test_without_its_mark(
    is_prepared: bool,
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Somebody has edited that away; what it was before stays known."""
    domain = libvirt_connection.defineXML(make_xml(busybox_rootfs))
    convert = ("domain", "convert", "plain", "--in-place")
    try:
        before = domain.XMLDesc()
        assert cli(*convert).code == 0
        if is_prepared:
            assert cli("domain", "prepare", "plain").code == 0
        xml = domain.XMLDesc()
        start, end = xml.index("  <metadata>"), xml.index("  <memory")
        libvirt_connection.defineXML(xml[:start] + xml[end:])
        done = cli(*convert)
        if is_prepared:
            assert (done.code, done.err) == (0, "")
            assert read_marker(domain.XMLDesc()) is not None
        else:
            assert "domain convert plain --in-place --revert" in done.error()
        done = cli(*convert, "--revert")
        assert (done.code, done.err) == (0, "")
        assert domain.XMLDesc() == before
        assert cli(*convert).code == 0
    finally:
        domain.undefine()


@pytest.mark.parametrize("strategy", ["overlay", "chown"])
def test_files_of_its_own(
    strategy: str,
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """They are not removed, nor left shifted, in silence."""
    domain = libvirt_connection.defineXML(make_xml(busybox_rootfs))
    convert = ("domain", "convert", "plain", "--in-place")
    try:
        assert cli(*convert, "--strategy", strategy).code == 0
        assert cli("domain", "prepare", "plain").code == 0
        told = cli(*convert, "--strategy", "idmapped").error()
        assert f"is prepared by the strategy {strategy}; revert" in told
        assert cli(*convert, "--strategy", strategy).code == 0
        done = cli(*convert, "--revert")
        if strategy == "overlay":
            assert "would lose them" in done.error()
            assert (cli.state / "private/plain/overlay").exists()
            done = cli(*convert, "--revert", "--discard")
            assert (done.code, done.err) == (0, "")
            assert not (cli.state / "private/plain").exists()
        else:
            assert done.code == 0
            assert f"{busybox_rootfs} stays shifted on disk" in done.err
        assert read_id_maps(domain.XMLDesc()) is None
        assert cli(*convert, "--discard").code == 2
        done = cli(*convert, "--revert", "--strategy", strategy)
        assert "--revert takes no --strategy" in done.error(2)
    finally:
        domain.undefine()


def test_without_a_uuid(
    cli: CommandLine,
    tmp_path: Path,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """It keeps the one that it was given, before and after it is defined."""
    line = "<uuid>5d66d54a-3cf5-455c-963f-05d90bc16fe7</uuid>"
    xml = make_xml(busybox_rootfs).replace(line, "")
    domain = libvirt_connection.defineXML(xml)
    uuid = f"<uuid>{domain.UUIDString()}</uuid>"
    try:
        converted, _ = convert(cli, tmp_path, xml)
        assert uuid in converted
        libvirt_connection.defineXML(converted)
        assert cli("domain", "prepare", "plain").code == 0
        domain.undefine()
        converted, _ = convert(cli, tmp_path, xml)
        assert uuid in converted
        libvirt_connection.defineXML(converted)
    finally:
        cli("container", "destroy", "plain")


def test_xml_without_end(cli: CommandLine) -> None:
    told = cli("domain", "convert", "/dev/zero").error()
    assert "libvirt takes at most" in told


def test_not_converted(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    domain = libvirt_connection.defineXML(make_xml(busybox_rootfs))
    try:
        told = cli("domain", "prepare", "plain").error()
        assert told.startswith("plain: is not converted; run: ")
        copied = call_copied(told)
        assert (copied.code, copied.err) == (0, "")
        assert cli("domain", "prepare", "plain").code == 0
    finally:
        domain.undefine()
