# SPDX-License-Identifier: Apache-2.0
"""Verification by the kernel's evidence, on containers that are not right.

Each is made to differ in one thing from what was promised.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from lxc_userns.guest import Guests
from lxc_userns.verification import gather
from tests.functional import foreign
from tests.functional.command_line import BASE, CommandLine
from tests.functional.foreign import PRIVNET, idmap, running

pytestmark = pytest.mark.needs("containers")

SLEEP = "/bin/sleep 1000"


@pytest.fixture
def cli(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> Iterator[CommandLine]:
    """The program; its containers are destroyed at the end."""
    made = CommandLine.make(
        tmp_path, reachable_path / "run", "userns_policy = preferred\n"
    )
    yield made
    for container in made.json("container", "list"):
        made("container", "destroy", container["name"])
    assert made.mounts() == []


@pytest.fixture
def shared_rootfs(busybox_rootfs: Path, reachable_path: Path) -> Path:
    """A tree that a container without views can reach."""
    path = reachable_path / "rootfs"
    os.rename(busybox_rootfs, path)
    return path


def run(
    cli: CommandLine, rootfs: Path, *options: str | Path, name: str = "web1"
) -> None:
    done = cli("container", "run", name, "--rootfs", rootfs, "--init", SLEEP,
               *options)  # fmt: skip
    assert done.code == 0, done


def restart(
    cli: CommandLine,
    connection: libvirt.virConnect,
    *changes: tuple[str, str],
) -> str:
    """Stop ``web1``, change its XML, and start it: what is said then."""
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    domain = connection.lookupByName("web1")
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for old, new in changes:
        assert old in xml
        xml = xml.replace(old, new, 1)
    connection.defineXML(xml)
    error = cli("container", "start", "web1").error()
    assert not domain.isActive()
    assert error.startswith("web1: ")
    assert error.endswith("; it was destroyed")
    return error.removeprefix("web1: ").removesuffix("; it was destroyed")


TUN = (
    "<hostdev mode='capabilities' type='misc'><source>"
    "<char>/dev/net/tun</char></source></hostdev></devices>"
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("<sys_resource state='off'/>", ""),
            "it may have CAP_SYS_RESOURCE",
        ),
        (
            ("<sys_resource state='off'/>",
             "<sys_resource state='off'/><mknod state='on'/>"),
            "it may have CAP_MKNOD",
        ),
        (
            ("</devices>", TUN),
            "it has the char device /dev/net/tun, 10:200",
        ),
        (
            ("</devices>",
             "<filesystem type='mount'><source dir='/proc'/>"
             "<target dir='/x'/></filesystem></devices>"),
            "at /x it has the processes of the host",
        ),
    ],
)  # fmt: skip
def test_xml_that_was_changed(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    change: tuple[str, str],
    said: str,
) -> None:
    run(cli, busybox_rootfs)
    assert restart(cli, libvirt_connection, change) == said


def test_a_volume_that_is_not_the_view(
    cli: CommandLine,
    busybox_rootfs: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    data = reachable_path / "data"
    data.mkdir(mode=0o755)
    run(cli, busybox_rootfs, "--volume", f"{data}:/data:ro")
    view = f"{cli.run}/web1/volume0"
    said = restart(cli, libvirt_connection, (f"'{view}'", f"'{data}'"))
    assert said == f"at /data it sees {view} without ID maps"


def test_a_root_filesystem_that_is_not_the_view(
    cli: CommandLine,
    busybox_rootfs: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    run(cli, busybox_rootfs)
    other = reachable_path / "other"
    subprocess.run(["cp", "-a", busybox_rootfs, other], check=True)
    subprocess.run(["chown", "-hR", f"{BASE}:{BASE}", other], check=True)
    view = f"{cli.run}/web1/root"
    said = restart(cli, libvirt_connection, (f"'{view}'", f"'{other}'"))
    assert said == f"its root filesystem is not {view}"


def test_the_hosts_network(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    assert cli("container", "run", "web1", "--rootfs", busybox_rootfs,
               "--init", SLEEP, "--mode", "host").code == 0  # fmt: skip
    assert cli.json("container", "verify", "web1")["mode"] == "host"
    said = restart(cli, libvirt_connection, ("<privnet/>", ""))
    assert said.startswith("it is in the host's network namespace")


def test_views_that_change_on_the_host(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    run(cli, busybox_rootfs)
    view = cli.run / "web1/root"
    subprocess.run(["umount", "--lazy", view], check=True)
    error = cli("container", "verify", "web1").error()
    assert f"{view}, its /, is not mounted on the host" in error
    assert not libvirt_connection.lookupByName("web1").isActive()

    assert cli("container", "start", "web1").code == 0
    subprocess.run(["umount", "--lazy", view], check=True)
    subprocess.run(["mount", "--bind", busybox_rootfs, view], check=True)
    error = cli("container", "verify", "web1").error()
    assert f"{view} is not idmapped" in error
    assert not libvirt_connection.lookupByName("web1").isActive()


def groups_of(pid: object) -> dict[str, str]:
    """Directories of a process's control groups, by their controllers."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line.split(" ") for line in lines if " - cgroup" in line]
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for fields in mounts:
            if controllers in fields[-1].split(","):
                found[controllers] = fields[4] + path
    return found


def test_files_of_control_groups(
    cli: CommandLine,
    shared_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    run(cli, shared_rootfs, "--strategy", "chown")
    pid = cli.json("container", "show", "web1")["init_pid"]
    limit = Path(groups_of(pid)["memory"]) / "memory.limit_in_bytes"
    os.chown(limit, BASE, BASE)
    # It is taken back, and nothing else is wrong.
    assert cli.json("container", "verify", "web1")["init_pid"] == pid
    assert limit.stat().st_uid == 0
    assert cli("container", "destroy", "web1").code == 0

    # Containers of others are looked at, and left as they are.
    ids = idmap()
    with running(libvirt_connection, "web2", shared_rootfs, ids=ids) as found:
        limit = Path(groups_of(found.init)["memory"]) / "memory.limit_in_bytes"
        assert cli.json("container", "verify", "web2")["mode"] == "private"
        os.chown(limit, BASE, BASE)
        error = cli("container", "verify", "web2").error()
        assert error == (
            f"web2: its root can write in {limit.parent} on the host: "
            f"{limit.name}; it is not ours, and was left"
        )
        assert found.domain.isActive()
        assert limit.stat().st_uid == BASE


def test_containers_of_others(
    cli: CommandLine,
    shared_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    with running(libvirt_connection, "own", shared_rootfs) as found:
        assert cli.json("container", "verify", "own") == {
            "name": "own",
            "mode": "host",
            "init_pid": found.init,
            "uid_map": "0:0:4294967295",
            "gid_map": "0:0:4294967295",
        }
    # What it says is what it has, also if that is little.
    with running(libvirt_connection, "bare", shared_rootfs, features=""):
        assert cli.json("container", "verify", "bare")["mode"] == "host"
    everything = "<features><capabilities policy='allow'/></features>"
    features = everything[len("<features>") : -len("</features>")]
    with running(
        libvirt_connection, "able", shared_rootfs, features=PRIVNET + features
    ):
        assert cli.json("container", "verify", "able")["mode"] == "host"
    error = cli("container", "verify", "able").error()
    assert error == "able: no such container"


def test_group_5_at_the_start_of_an_entry(
    cli: CommandLine,
    shared_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """libvirt then gives the terminals to a group of the host."""
    subprocess.run(["chown", "-hR", f"{BASE}:{BASE}", shared_rootfs],
                   check=True)  # fmt: skip
    for gid, group in (
        (f"0:{BASE}:5,5:{BASE + 5}:{65536 - 5}", 5),
        (f"0:{BASE}:65536", BASE + 5),
    ):
        with (
            running(
                libvirt_connection, "tty", shared_rootfs, ids=idmap(gid)
            ) as found,
            Guests().init_process("tty") as init,
        ):
            assert gather("tty", init).terminal_group == group
            lines = Path(f"/proc/{found.init}/mountinfo").read_text()
            (terminals,) = (
                line
                for line in lines.splitlines()
                if " /dev/pts " in line and " - devpts " in line
            )
            assert f"gid={group}," in terminals
            # The ID maps that we would not make are not taken for granted.
            result = cli("container", "verify", "tty")
            assert result.code == (1 if group == 5 else 0), result
            assert found.domain.isActive()


def test_a_process_that_says_nothing_true(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """What the container mounts for itself is its own affair."""
    run(cli, busybox_rootfs)
    pid = cli.json("container", "show", "web1")["init_pid"]
    for command in (
        "mount -t tmpfs x /mnt", "mount -t proc x /mnt",
        "umount /proc/sys/net/ipv4 /proc/sys/net/ipv6; umount /proc/sys",
        "umount /proc/meminfo", "mount -t sysfs x /mnt",
        "mount --bind /etc /mnt", "chmod 777 /dev/console",
        "chown 7:7 /dev/pts/0",
    ):  # fmt: skip
        done = foreign.enter(pid, "sh", "-c", f"mkdir -p /mnt; {command}")
        assert (done.returncode, done.stderr) == (0, ""), command
    assert cli.json("container", "verify", "web1")["init_pid"] == pid
