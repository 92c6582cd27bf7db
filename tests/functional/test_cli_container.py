# SPDX-License-Identifier: Apache-2.0
"""Containers by the command line: run, start, stop, verify, destroy."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import libvirt
import pytest

from lxc_userns.domain import Marker, read_marker
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest
from tests import system_calls
from tests.functional.command_line import (
    BASE,
    ID_MAP,
    CommandLine,
)
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import SLEEP, UUID
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    """The program, which shifts on disk."""
    return command_line("rootfs_strategy = chown\n")


def id_map_of(pid: int, kind: str) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/{kind}_map").read_text().split())]


def inode_times(tree: Path) -> dict[str, int]:
    return {
        str(path): path.lstat().st_ctime_ns for path in tree.rglob("bin/*")
    }


def test_from_run_to_destroy(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    shown = cli.json("container", "run", "web1", "--rootfs", busybox_rootfs)
    pid = shown.pop("init_pid")
    uuid = shown.pop("uuid")
    shown.pop("console")  # As far as it has got.
    assert shown == {
        "name": "web1",
        "state": "running",
        "mode": "private",
        "mode_reasons": ["nothing it asks for requires mode host"],
        "strategy": "chown",
        "reason": "it was asked for",
        "rootfs": str(busybox_rootfs),
        "rootfs_kind": "directory",
        "archive": None,
        "volumes": [],
        "shared": [],
        "capabilities": [],
        "devices": [],
        "max_processes": 4096,
        "hostname": "web1",
        "view": f"{cli.run}/web1/root",
        "uid_map": ID_MAP,
        "gid_map": ID_MAP,
        "interfaces": [],
        "restart": "no",
        "ended": None,
        "oom_kills": 0,
    }
    # What the kernel says, not the program.
    assert id_map_of(pid, "uid") == [0, BASE, 65536]
    assert id_map_of(pid, "gid") == [0, BASE, 65536]
    status = Path(f"/proc/{pid}").stat()
    assert (status.st_uid, status.st_gid) == (BASE, BASE)
    assert (busybox_rootfs / "bin/su").stat().st_uid == BASE
    assert (busybox_rootfs / "home/alice").stat().st_uid == BASE + 1000
    assert os.path.samefile(f"/proc/{pid}/root", busybox_rootfs)
    assert os.statvfs(f"{cli.run}/web1/root").f_flag & os.ST_NODEV
    domain = libvirt_connection.lookupByName("web1")
    assert domain.UUIDString() == uuid
    # Whoever reads the domain alone can tell what made it.
    assert read_marker(domain.XMLDesc()) == Marker(
        rootfs=str(busybox_rootfs),
        rootfs_kind="directory",
        strategy="chown",
        mode="private",
        mode_reasons=("nothing it asks for requires mode host",),
    )

    (listed,) = cli.json("container", "list")
    assert (listed["name"], listed["init_pid"]) == ("web1", pid)
    verified = cli.json("container", "verify", "web1")
    assert verified["init_pid"] == pid

    assert cli("container", "stop", "web1").code == 0
    assert cli.mounts() == []
    assert cli.json("container", "show", "web1")["state"] == "stopped"
    assert cli("container", "stop", "web1").code == 0  # Nothing to do.

    before = inode_times(busybox_rootfs)
    shown = cli.json("container", "start", "web1")
    assert id_map_of(shown["init_pid"], "uid") == [0, BASE, 65536]
    assert inode_times(busybox_rootfs) == before  # Not shifted again.

    assert cli("container", "destroy", "web1").code == 0
    assert cli.json("container", "list") == []
    assert cli.mounts() == []
    assert list(cli.run.iterdir()) == []
    assert list((cli.state / "instances").iterdir()) == []
    # Locks are gone with what they were for.
    assert list((cli.state / "locks").iterdir()) == []
    with pytest.raises(libvirt.libvirtError, match="Domain not found"):
        libvirt_connection.lookupByName("web1")
    # The root filesystem is left alone, and comes back by one command.
    assert busybox_rootfs.stat().st_uid == BASE
    report = cli.json("rootfs", "unshift", busybox_rootfs)
    assert report["inodes"] == report["shifted"]
    assert (busybox_rootfs / "home/alice").stat().st_uid == 1000


def test_init_arguments_environment_and_no_network(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    shown = cli.json(
        *("container", "run", "env", "--rootfs", busybox_rootfs),
        *("--init", "/bin/sh -c 'echo \"$GREETING\" >/out; exec sleep 1000'"),
        *("--env", "GREETING=hello world", "--network", "none"),
        *("--memory", "64", "--cpus", "1.5"),
    )
    out = busybox_rootfs / "out"
    wait_for(lambda: out.exists() and out.read_text())
    assert out.read_text() == "hello world\n"
    # Made inside, by the container's root.
    assert out.stat().st_uid == BASE
    devices = Path(f"/proc/{shown['init_pid']}/net/dev").read_text()
    assert [
        line.split(":")[0].strip() for line in devices.splitlines()[2:]
    ] == ["lo"]


def test_reboot_from_inside_and_verify(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    first = cli.run_to_reboot("boot", "--rootfs", busybox_rootfs)
    shown = cli.reboot_inside("boot", first["init_pid"])
    (now,) = cli.json("container", "list")
    assert now["init_pid"] == shown["init_pid"]
    verified = cli.json("container", "verify", "boot")
    assert verified["uid_map"] == ID_MAP


def test_stop_lets_an_init_power_off(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    trap = "trap 'echo bye >/out; exit' TERM; >/trapped; "
    trap += "while :; do sleep 0.1; done"
    cli.json(
        *("container", "run", "trap", "--rootfs", busybox_rootfs),
        *("--init", f'/bin/sh -c "{trap}"'),
    )
    wait_for((busybox_rootfs / "trapped").exists)
    assert cli("container", "stop", "trap").code == 0
    assert (busybox_rootfs / "out").read_text() == "bye\n"


def test_stop_kills_what_does_not_obey(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    cli.json(
        *("container", "run", "deaf", "--rootfs", busybox_rootfs),
        *("--init", SLEEP),
    )
    start = time.monotonic()
    assert cli("container", "stop", "deaf", "--timeout", "0").code == 0
    assert time.monotonic() - start < 8
    assert cli.json("container", "show", "deaf")["state"] == "stopped"


def redefine(
    connection: libvirt.virConnect, name: str, old: str, new: str
) -> None:
    domain = connection.lookupByName(name)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert old in xml
    connection.defineXML(xml.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            f"<uid start='0' target='{BASE}' count='65536'/>",
            f"<uid start='0' target='{BASE}' count='65535'/>",
            f"its uid_map is 0:{BASE}:65535, promised was {ID_MAP}",
        ),
        (
            f"<gid start='0' target='{BASE}' count='65536'/>",
            f"<gid start='0' target='{BASE}' count='65537'/>",
            f"its gid_map is 0:{BASE}:65537, promised was {ID_MAP}",
        ),
    ],
)
def test_a_container_with_other_maps_is_destroyed(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    old: str,
    new: str,
    reason: str,
) -> None:
    cli.json("container", "run", "other", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    assert cli("container", "stop", "other", "--timeout", "0").code == 0
    redefine(libvirt_connection, "other", old, new)
    error = cli("container", "start", "other").error()
    assert error == f"other: {reason}; it was destroyed"
    assert not libvirt_connection.lookupByName("other").isActive()
    assert cli.mounts() == []


def test_a_container_without_a_user_namespace_is_destroyed(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli.json("container", "run", "bare", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    domain = libvirt_connection.lookupByName("bare")
    domain.destroy()
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    before, _, rest = xml.partition("<idmap>")
    libvirt_connection.defineXML(before + rest.partition("</idmap>")[2])
    domain.create()
    error = cli("container", "verify", "bare").error()
    assert "it runs in the host's user namespace" in error
    assert not domain.isActive()


def test_its_tree_is_not_shifted_for_others_while_it_runs(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    cli.json("container", "run", "busy", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    other_map = "0:1800000000:65536"
    other = ("--uid-map", other_map, "--gid-map", other_map)
    in_use = "is in use by the instance busy; stop that one first"
    for arguments in (
        ("shift", busybox_rootfs, *other),
        ("unshift", busybox_rootfs),
        ("shift", busybox_rootfs / "bin", *other),
        ("shift", busybox_rootfs.parent, *other),
    ):
        error = cli("rootfs", *arguments).error()
        if arguments[1] == busybox_rootfs.parent:
            assert "[lxc_userns] state_path" in error  # It is in there too.
        elif arguments[1] == busybox_rootfs / "bin":
            # Its root can put something else there.
            assert f"{busybox_rootfs} belongs to user {BASE}" in error
        else:
            assert error == f"{arguments[1]}: {in_use}"
    assert busybox_rootfs.stat().st_uid == BASE
    # For the same maps nothing would change.
    assert cli.json("rootfs", "shift", busybox_rootfs)["shifted"] == 0
    cli("container", "stop", "busy", "--timeout", "0")
    assert cli("rootfs", "unshift", busybox_rootfs).code == 0
    # Start shifts it again.
    shown = cli.json("container", "start", "busy")
    assert id_map_of(shown["init_pid"], "uid") == [0, BASE, 65536]
    assert busybox_rootfs.stat().st_uid == BASE


def test_an_image_that_says_it_is_shifted(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    trap = busybox_rootfs / "bin/trap"
    shutil.copy("/usr/bin/id", trap)
    subprocess.run(
        ["chown", "-hR", f"{BASE}:{BASE}", busybox_rootfs], check=True
    )
    os.chown(trap, 0, 0)
    trap.chmod(0o4755)
    said = {
        "version": 1,
        "maps": {"uid": ID_MAP, "gid": ID_MAP},
        "inodes": 2,
        "unmapped": 0,
        "owner": [BASE, BASE],
        # Without it, what an older version has shifted is walked anyway.
        "devices": 0,
        "linked_outside": 0,
        "work": None,
    }
    state = json.dumps(said).encode()
    os.setxattr(busybox_rootfs, "trusted.lxc_userns.state", state)
    cli.json("container", "run", "liar", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    status = trap.stat()
    assert (status.st_uid, status.st_gid) == (BASE, BASE)
    assert status.st_mode & 0o7777 == 0o4755


def test_users_of_the_host_do_not_reach_a_view(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    # An owner that the maps do not cover keeps its files, and set-user-ID.
    program = busybox_rootfs / "bin/unmapped"
    shutil.copy("/usr/bin/id", program)
    os.chown(program, 70000, 70000)
    program.chmod(0o6755)
    cli.json("container", "run", "closed", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    assert program.stat().st_uid == 70000
    directory = (cli.run / "closed").stat()
    assert (directory.st_gid, directory.st_mode & 0o7777) == (BASE, 0o710)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # By a shell: setpriv has capabilities until it executes something.
    done = subprocess.run(
        [*user, "sh", "-c", f"exec {cli.run}/closed/root/bin/unmapped"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_a_tree_that_is_swapped_is_not_followed(
    cli: CommandLine,
    manager: UserNamespaceManager,
    busybox_rootfs: Path,
) -> None:
    # The host's own, which a link in the path leads to all of a sudden.
    victim = busybox_rootfs.parent / "victim/busybox-rootfs/bin"
    victim.mkdir(parents=True)
    above = busybox_rootfs.parent / "above"
    above.mkdir()
    busybox_rootfs.rename(above / "busybox-rootfs")

    def swap(_path: object, uid: int, *_: object) -> None:
        # Right before the first file gets another owner.
        if uid == BASE and not above.is_symlink():
            above.rename(above.with_name("moved"))
            above.symlink_to("victim")

    request = InstanceRequest("swap", UUID, str(above / "busybox-rootfs"))
    with system_calls.acting("os.chown", swap):
        manager.prepare(request)
    assert above.is_symlink()
    assert victim.stat().st_uid == victim.parent.stat().st_uid == 0
    moved = above.with_name("moved") / "busybox-rootfs"
    assert moved.stat().st_uid == BASE
    assert os.path.samefile(cli.run / "swap/root", moved)


def test_after_a_reboot_of_the_host(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli.json("container", "run", "host", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    libvirt_connection.lookupByName("host").destroy()
    # All that a reboot takes away: what is mounted, and run_path itself.
    subprocess.run(["umount", cli.run / "host/root"], check=True)
    (cli.run / "host/root").rmdir()
    (cli.run / "host").rmdir()
    cli.run.rmdir()
    shown = cli.json("container", "start", "host")
    assert id_map_of(shown["init_pid"], "uid") == [0, BASE, 65536]
    # Without a start, destroy has nothing to unmount.
    libvirt_connection.lookupByName("host").destroy()
    subprocess.run(["umount", cli.run / "host/root"], check=True)
    (cli.run / "host/root").rmdir()
    (cli.run / "host").rmdir()
    cli.run.rmdir()
    assert cli("container", "destroy", "host").code == 0
    assert cli.json("container", "list") == []
