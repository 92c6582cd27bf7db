# SPDX-License-Identifier: Apache-2.0
"""``domain audit`` of domains by name: what only their host can tell."""

import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from lxc_userns.audit import Finding
from lxc_userns.audit.host_audit import Auditor
from lxc_userns.domain.seclabel import parse_models
from lxc_userns.libvirtd.client import Guests
from tests.functional import images
from tests.functional.command_line import BASE, COUNT, ID_MAP, CommandLine
from tests.functional.lease_host import HostFiles, mounted_host_files

pytestmark = pytest.mark.needs("containers")

INIT = ("--init", "/bin/sleep 1000")
NO_MAP = "<idmap/>"
MAP = (
    f"<idmap><uid start='0' target='{BASE}' count='{COUNT}'/>"
    f"<gid start='0' target='{BASE}' count='{COUNT}'/></idmap>"
)
#: CAP_NET_RAW in the permitted set: version 2, and 3 with a root ID.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
OF_CONTAINER = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, BASE)
#: What this host says of any domain with ID maps, or without.
OF_HOST = {"cgroup-v1-without-idmap", "cgroup-v2-limits"}

Define = Callable[..., None]


@pytest.fixture
def cli(
    tmp_path: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
) -> Iterator[CommandLine]:
    """The program; its containers are destroyed at the end."""
    made = CommandLine.make(tmp_path, reachable_path / "run")
    yield made
    for each in made.json("container", "list"):
        assert made("container", "destroy", each["name"]).code == 0


@pytest.fixture
def define(libvirt_connection: libvirt.virConnect) -> Iterator[Define]:
    """Define domains of others, and start them if asked."""
    made = []

    def define(
        name: str,
        root: Path,
        *,
        idmap: str = MAP,
        devices: str = "",
        start: bool = False,
    ) -> None:
        domain = libvirt_connection.defineXML(
            f"<domain type='lxc'><name>{name}</name>"
            "<memory unit='MiB'>64</memory><os><type>exe</type>"
            "<init>/bin/sleep</init><initarg>1000</initarg></os>"
            f"{idmap}<features><privnet/></features><devices>"
            f"<filesystem type='mount'><source dir='{root}'/>"
            f"<target dir='/'/></filesystem>{devices}"
            "<console type='pty'/></devices></domain>"
        )
        made.append(domain)
        if start:
            domain.create()

    yield define
    for domain in made:
        if domain.isActive():
            domain.destroy()
        domain.undefine()


@pytest.fixture
def tree(reachable_path: Path) -> Path:
    """A root filesystem that users of the host can reach."""
    path = reachable_path / "tree"
    images.make_busybox(path)
    return path


def audit(cli: CommandLine, name: str) -> dict[str, list[Finding]]:
    """The findings about a domain, by their code."""
    services = cli.services()
    found: dict[str, list[Finding]] = {}
    for each in Auditor(services).audit(name):
        found.setdefault(each.code, []).append(each)
    return found


def test_container_run_has_no_serious_finding(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs, *INIT)
    found = audit(cli, "web")
    has_driver = parse_models(libvirt_connection.getCapabilities())
    expected = set() if has_driver else {"no-seclabel"}
    assert set(found) - OF_HOST == expected
    # A name has no file, so no lines of one either.
    (run,) = cli("domain", "audit", "web", "-f", "sarif").json()["runs"]
    for each in run["results"]:
        assert set(each["locations"][0]) == {"logicalLocations"}
    # Not running it is the same.
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    assert set(audit(cli, "web")) - OF_HOST == expected


def test_two_running_containers_with_the_same_ids(
    cli: CommandLine, busybox_rootfs: Path, tree: Path, define: Define
) -> None:
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs, *INIT)
    subprocess.run(["chown", "-R", f"{BASE}:{BASE}", tree], check=True)
    define("other", tree, devices="<interface type='ethernet'/>")
    assert "ids-of-another-container" not in audit(cli, "web")
    # What is not running is told of what runs.
    found = audit(cli, "other")["ids-of-another-container"]
    assert [each.xpath for each in found] == [
        "/domain/idmap/uid",
        "/domain/idmap/gid",
    ]
    assert f"0:{BASE}:{COUNT}" in found[0].message
    assert "'web'" in found[0].message
    result = cli("domain", "audit", "other", "-f", "json")
    assert result.code == 1
    assert "ids-of-another-container" in {
        each["code"] for each in json.loads(result.out)
    }


def test_ids_of_the_host(
    cli: CommandLine, tree: Path, define: Define, tmp_path: Path
) -> None:
    with mounted_host_files(tmp_path / "etc") as files:
        check_ids_of_the_host(cli, files, tree, define)


def check_ids_of_the_host(
    cli: CommandLine, files: HostFiles, tree: Path, define: Define
) -> None:
    define("other", tree)
    files.give(f"lxc-userns:{BASE}:{COUNT}")
    assert "ids-of-the-host" not in audit(cli, "other")
    files.append("passwd", f"middle:x:{BASE + 77}:1::/:/bin/sh")
    files.append("subgid", f"other:{BASE + 65535}:10")
    uid, gid = audit(cli, "other")["ids-of-the-host"]
    assert f"user middle ({BASE + 77})" in uid.message
    assert "subordinate group IDs of other" in gid.message


def test_a_reachable_tree(
    cli: CommandLine, tree: Path, define: Define
) -> None:
    define("other", tree, idmap=NO_MAP)
    (found,) = audit(cli, "other")["reachable-tree"]
    assert "users of the host can reach it" in found.message
    assert found.xpath == "/domain/devices/filesystem"
    tree.parent.chmod(0o700)
    assert "reachable-tree" not in audit(cli, "other")


def test_what_is_below_an_idmapped_mount(
    cli: CommandLine, tree: Path, reachable_path: Path, define: Define
) -> None:
    """It is harmless itself; the tree that it shows has to be closed."""
    closed, view = reachable_path / "closed", reachable_path / "view"
    closed.mkdir(mode=0o700)
    view.mkdir()
    moved = closed / "tree"
    tree.rename(moved)
    maps = ("--uid-map", ID_MAP, "--gid-map", ID_MAP)
    assert cli("rootfs", "mount", moved, view, *maps).code == 0
    define("other", view)
    assert "reachable-tree" not in audit(cli, "other")
    closed.chmod(0o755)
    (found,) = audit(cli, "other")["reachable-tree"]
    assert str(moved) in found.message
    assert cli("rootfs", "unmount", view).code == 0


def test_programs_of_the_hosts_root_in_a_shifted_tree(
    cli: CommandLine, tree: Path, define: Define
) -> None:
    subprocess.run(["chown", "-R", f"{BASE}:{BASE}", tree], check=True)
    define("other", tree)
    # What the shift of others makes of it: su is set-user-ID no more.
    found = audit(cli, "other")
    assert not {"host-setuid-files", "reachable-tree"} & set(found)
    deep = tree / "srv/a\nb"
    deep.mkdir(parents=True)
    for name, owner, mode in (
        ("of root", 0, 0o4755),
        ("of the container", BASE, 0o4755),
        ("no program", 0, 0o4644),
        ("no set-user-ID", 0, 0o755),
        ("of root and able", BASE, 0o755),
        ("able", BASE, 0o755),
    ):
        (deep / name).touch()
        os.chown(deep / name, owner, owner)
        (deep / name).chmod(mode)
    os.setxattr(deep / "of root and able", "security.capability", CAPABILITY)
    os.setxattr(deep / "able", "security.capability", OF_CONTAINER)
    (tree / "out").symlink_to("/bin")
    os.mkfifo(tree / "pipe")
    (found_files,) = audit(cli, "other")["host-setuid-files"]
    message = found_files.message
    _, _, listed = message.partition("programs of the host's root: ")
    assert sorted(listed.split(", ")) == [
        r"/srv/a\nb/of root",
        r"/srv/a\nb/of root and able",
    ]
    tree.parent.chmod(0o700)
    assert "host-setuid-files" not in audit(cli, "other")


def test_a_source_of_two_domains(
    cli: CommandLine, busybox_rootfs: Path, tree: Path, define: Define
) -> None:
    shared = tree.parent / "shared"
    shared.mkdir()
    volume = f"{shared}:/shared:none"
    cli.json(
        *("container", "run", "web", "--rootfs", busybox_rootfs, *INIT),
        *("--volume", volume),
    )
    assert "shared-source" not in audit(cli, "web")
    define(
        "other",
        tree,
        devices=f"<filesystem type='mount'><source dir='{shared}'/>"
        "<target dir='/mnt'/></filesystem>",
    )
    (found,) = audit(cli, "web")["shared-source"]
    assert found.xpath == "/domain/devices/filesystem[2]"
    assert "'other'" in found.message
    (found,) = audit(cli, "other")["shared-source"]
    assert "'web'" in found.message


def test_what_is_mounted_below_a_root(
    cli: CommandLine, tree: Path, define: Define,
    libvirt_connection: libvirt.virConnect,
) -> None:  # fmt: skip
    place = tree / "mnt"
    place.mkdir(exist_ok=True)
    define("web", tree, idmap=NO_MAP)
    assert "host-path-below-root" not in audit(cli, "web")
    subprocess.run(["mount", "--bind", "/etc", place], check=True)
    try:
        (found,) = audit(cli, "web")["host-path-below-root"]
        assert f"'{place}', in filesystem '/', is '/etc'" in found.message
        domain = libvirt_connection.lookupByName("web")
        domain.create()
        with Guests().init_process("web") as init:
            inside = Path(f"/proc/{init.pid}/root/mnt/passwd")
            assert inside.samefile("/etc/passwd")
        domain.destroy()
    finally:
        subprocess.run(["umount", place], check=True)


def test_sources_that_are_links(
    cli: CommandLine, tree: Path, define: Define, reachable_path: Path
) -> None:
    """libvirt follows them when it mounts."""
    for name, target in (("sockets", "/run"), ("host", "/"), ("copy", tree)):
        (reachable_path / name).symlink_to(target)
    devices = "".join(
        f"<filesystem type='mount'><source dir='{reachable_path / name}'/>"
        f"<target dir='/{name}'/></filesystem>"
        for name in ("sockets", "copy")
    )
    define("web", reachable_path / "host", devices=devices)
    define("db", tree)
    found = audit(cli, "web")
    (host,) = found["host-root-filesystem"]
    assert "filesystem '/' is '/' of the host" in host.message
    (path,) = found["host-path"]
    assert "filesystem '/sockets' is '/run' of the host" in path.message
    assert any(
        f"filesystem '/copy' has files ('{tree}') of the domain 'db'"
        in each.message
        for each in found["shared-source"]
    )


def test_control_groups(cli: CommandLine, tree: Path, define: Define) -> None:
    types = {
        line.split()[4]: line.partition(" - ")[2].split()[0]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    }
    is_v2 = types.get("/sys/fs/cgroup") == "cgroup2"
    define("mapped", tree)
    define("plain", tree, idmap=NO_MAP)
    v1, v2 = "cgroup-v1-without-idmap", "cgroup-v2-limits"
    assert (v2 in audit(cli, "mapped")) == is_v2
    assert (v1 in audit(cli, "plain")) == (not is_v2)
    assert v1 not in audit(cli, "mapped")
    assert v2 not in audit(cli, "plain")


def test_no_such_domain(cli: CommandLine) -> None:
    result = cli("domain", "audit", "absent")
    assert result.error(5) == "absent: no such container"


def test_all_domains(
    cli: CommandLine, busybox_rootfs: Path, tree: Path, define: Define
) -> None:
    """Each finding has its domain's name; one failure ends nothing."""
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs, *INIT)
    define("bare", tree, idmap="")
    every = cli("domain", "audit", "--all", "-f", "json")
    assert (every.code, every.err) == (1, "")
    rows = json.loads(every.out)
    assert {each["name"] for each in rows} == {"bare", "web"}
    for name in ("bare", "web"):
        one = json.loads(cli("domain", "audit", name, "-f", "json").out)
        assert [{"name": name, **each} for each in one] == [
            each for each in rows if each["name"] == name
        ]
    sarif = json.loads(cli("domain", "audit", "--all", "-f", "sarif").out)
    (run,) = sarif["runs"]
    names = {
        each["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
        for each in run["results"]
    }
    assert {each.split(":")[0] for each in names} == {"bare", "web"}
    # Only what is looked for counts.
    assert (
        cli("domain", "audit", "--all", "--severity", "critical").code
        == cli("domain", "audit", "bare", "--severity", "critical").code
    )
    record = cli.state / "instances/web.json"
    text = record.read_text()
    record.write_text("{")
    done = cli("domain", "audit", "--all", "-f", "json")
    record.write_text(text)
    assert done.code == 1
    assert done.err.startswith("error: web: ")
    assert {each["name"] for each in json.loads(done.out)} == {"bare"}


def test_what_is_audited_is_said_once(cli: CommandLine) -> None:
    for arguments in ((), ("--all", "web")):
        error = cli("domain", "audit", *arguments).error(2)
        assert "expected either FILE|NAME or --all" in error
    assert cli.json("domain", "audit", "--all") == []
