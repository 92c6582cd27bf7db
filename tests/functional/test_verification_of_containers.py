# SPDX-License-Identifier: Apache-2.0
"""Verification by the kernel's evidence, on containers that are not right.

Each is made to differ in one thing from what was promised.
"""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.verification import observe
from tests.functional.command_line import BASE, CommandLine
from tests.functional.foreign import PRIVNET, idmap, running
from tests.functional.guest import inside
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

SLEEP = "/bin/sleep 1000"


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("userns_policy = preferred\n")


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
    return restart_again(cli, connection, *changes)


def restart_again(
    cli: CommandLine,
    connection: libvirt.virConnect,
    *changes: tuple[str, str],
) -> str:
    domain = connection.lookupByName("web1")
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for old, new in changes:
        assert old in xml
        xml = xml.replace(old, new, 1)
    connection.defineXML(xml)
    done = cli("container", "start", "web1")
    assert (done.code, domain.isActive()) == (1, 0)
    # In mode host a warning comes first.
    error = done.err.splitlines()[-1]
    assert error.startswith("error: web1: ")
    assert error.endswith("; it was destroyed")
    return error.removeprefix("error: web1: ").removesuffix(
        "; it was destroyed"
    )


TUN = (
    "<hostdev mode='capabilities' type='misc'><source>"
    "<char>/dev/net/tun</char></source></hostdev></devices>"
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("<sys_nice state='on'/>",
             "<sys_nice state='on'/><sys_resource state='on'/>"),
            "it may have CAP_SYS_RESOURCE",
        ),
        (
            ("<sys_nice state='on'/>",
             "<sys_nice state='on'/><mknod state='on'/>"),
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
    assert (
        said == f"at /data it sees {view} without ID maps, nodev, nosuid, ro"
    )
    # Back, but at another place.
    said = restart_again(
        cli,
        libvirt_connection,
        (f"'{data}'", f"'{view}'"),
        ("<target dir='/data'/>", "<target dir='/other'/>"),
    )
    assert said == f"its /data is not {view}"


def test_a_filesystem_that_was_added(
    cli: CommandLine,
    busybox_rootfs: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    more = reachable_path / "more"
    more.mkdir(mode=0o755)
    run(cli, busybox_rootfs)
    added = (
        f"<filesystem type='mount'><source dir='{more}'/>"
        "<target dir='/more'/></filesystem></devices>"
    )
    said = restart(cli, libvirt_connection, ("</devices>", added))
    assert said.startswith("at /more it has ")
    assert "of a filesystem of the host" in said


def test_a_view_that_became_writable(
    cli: CommandLine,
    busybox_rootfs: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    data = reachable_path / "data"
    data.mkdir(mode=0o755)
    run(cli, busybox_rootfs, "--volume", f"{data}:/data:ro")
    view = cli.run / "web1/volume0"
    libvirt_connection.lookupByName("web1").destroy()
    subprocess.run(["mount", "-o", "remount,bind,rw", view], check=True)
    libvirt_connection.lookupByName("web1").create()
    error = cli("container", "verify", "web1").error()
    assert f"{view} is not ro" in error
    assert f"at /data it sees {view} without " in error


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
    assert f"its / is not {view}" in said


def test_the_hosts_network(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    assert cli("container", "run", "web1", "--rootfs", busybox_rootfs,
               "--init", SLEEP, "--mode", "host").code == 0  # fmt: skip
    assert cli.json("container", "verify", "web1")["mode"] == "host"
    said = restart(cli, libvirt_connection, ("<privnet/>", ""))
    assert "it is in the host's network namespace" in said


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


@pytest.fixture
def namespace() -> Iterator[str]:
    """A mount namespace in which nothing appears that is mounted later."""
    argv = ["unshare", "--mount", "--propagation", "private", "cat"]
    with subprocess.Popen(argv, stdin=-1, stdout=-1) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b".")
        holder.stdin.flush()
        assert holder.stdout.read(1) == b"."
        try:
            yield f"/proc/{holder.pid}/ns/mnt"
        finally:
            holder.stdin.close()


def within(namespace: str) -> list[str]:
    return ["nsenter", f"--mount={namespace}"]


@pytest.mark.parametrize("options", [(), ("--report-only",)])
def test_from_another_mount_namespace_than_libvirts(
    cli: CommandLine,
    busybox_rootfs: Path,
    reachable_path: Path,
    namespace: str,
    options: tuple[str, ...],
) -> None:
    """A compute service that runs in a container has another one."""
    data = reachable_path / "data"
    data.mkdir(mode=0o755)
    run(cli, busybox_rootfs, "--volume", f"{data}:/data:ro")
    done = cli("container", "verify", "web1", *options,
               prefix=within(namespace))  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert cli.mounts()
    # What is wrong where libvirt looks is seen from there as well.
    path = cli.mounts()[0]
    subprocess.run(["mount", "-o", "remount,bind,suid,dev", path], check=True)
    done = cli("container", "verify", "web1", prefix=within(namespace))
    assert f"{path} is not nodev; it was destroyed" in done.error()


def test_a_view_that_libvirt_does_not_see(
    cli: CommandLine,
    busybox_rootfs: Path,
    namespace: str,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """It would start the container on the empty directory below."""
    done = cli("container", "run", "web1", "--rootfs", busybox_rootfs,
               "--init", SLEEP, prefix=within(namespace))  # fmt: skip
    assert done.code == 1
    assert libvirt_connection.listAllDomains() == []


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
            f"{limit.name}; chown them to root, after each start of it; it is "
            "not ours, and was left"
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
            "previous_state": None,
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
    error = cli("container", "verify", "able").error(5)
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
            assert observe("tty", init).terminal_group == group
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


def test_what_its_root_changes_for_itself(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    """Mounts and files that the container makes later are its own affair."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    run(cli, busybox_rootfs, "--volume", f"{data}:/data")
    pid = cli.json("container", "show", "web1")["init_pid"]
    for command in (
        "mount -t tmpfs x /mnt", "mount -t proc x /mnt",
        "umount /proc/sys/net/ipv4 /proc/sys/net/ipv6; umount /proc/sys",
        "umount /proc/meminfo", "mount -t sysfs x /mnt",
        "mount --bind /etc /mnt", "mount --bind /data /mnt", "umount /data",
        "chmod 777 /dev/console", "chown 7:7 /dev/pts/0",
        # What everybody may make, and any number of it.
        "mkdir -m 1777 /dev/shm; cd /dev/shm; for i in $(seq 3000);"
        " do : >$i; done; mkdir -p d/$(seq -s / 300); mkfifo /dev/pipe",
        "ln -s / /dev/top; mknod /dev/shm/whiteout c 0 0",
        "mount -t tmpfs x /",
    ):  # fmt: skip
        done = inside(pid, f"mkdir -p /mnt; {command}")
        assert (done.returncode, done.stderr) == (0, ""), command
    assert cli.json("container", "verify", "web1")["init_pid"] == pid


def test_a_name_that_looks_like_what_the_kernel_says(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """A process can call itself what it likes, line breaks of sorts too."""
    run(cli, busybox_rootfs)
    pid = cli.json("container", "show", "web1")["init_pid"]
    with Process(pid) as init:
        controller = init.parent
    # Somebody else's, who would be taken for the container's first process.
    script = (
        "import ctypes, os, sys, time; name = os.fsencode(sys.argv[1]);"
        "assert ctypes.CDLL(None).prctl(15, name) == 0;"
        "print(flush=True); time.sleep(60)"
    )
    names = [
        f"{separator}PPid:\t{controller}"
        for separator in ("\x0b", "\r", "\x1c", "\u2028", "\n")
    ]
    for name in (*names, f") S {controller} ("):
        with subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", sys.executable,
             "-c", script, name.encode()],
            stdout=subprocess.PIPE,
        ) as other:  # fmt: skip
            try:
                assert other.stdout is not None
                assert other.stdout.read(1) == b"\n"
                (impostor,) = children(other.pid)
                with Process(impostor) as process:
                    assert process.parent == other.pid
                assert impostor not in [*children(controller)]
            finally:
                other.kill()
    assert cli.json("container", "verify", "web1")["init_pid"] == pid


@pytest.mark.parametrize(
    ("keeper", "said"),
    [
        ("process", "it may have CAP_MKNOD"),
        ("thread", "it may have CAP_MKNOD"),
        # The former if it is looked at before it has done so.
        ("groups", "it may have CAP_MKNOD|is in so many groups"),
    ],
)
def test_capabilities_of_other_processes(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    keeper: str,
    said: str,
) -> None:
    """The first process is not alone, nor the first thread."""
    assert cli("container", "run", "web1", "--rootfs", busybox_rootfs,
               "--init", SLEEP, "--mode", "host").code == 0  # fmt: skip
    # The first gives up what it was given, and the second does not.
    program = busybox_rootfs / "bin/surrender"
    source = Path(__file__).with_name("surrender.c")
    argv = ["gcc", "-static", "-Wall", "-o", str(program), str(source)]
    subprocess.run(argv, check=True)
    found = restart(
        cli,
        libvirt_connection,
        ("<init>/bin/sleep</init>", "<init>/bin/surrender</init>"),
        ("<initarg>1000<", f"<initarg>{keeper}<"),
        ("<privnet/>",
         "<privnet/><capabilities policy='default'><mknod state='on'/>"
         "</capabilities>"),
    )  # fmt: skip
    assert re.search(said, found)


def test_a_reboot_while_it_is_looked_at(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    (busybox_rootfs / "again").write_text(
        "#!/bin/sh\nPATH=/bin:/sbin\n[ -e /rest ] && exec sleep 1000\n"
        "sleep 0.3\nreboot -f\n"
    )
    (busybox_rootfs / "again").chmod(0o755)
    cli.run_to_reboot("web1", "--rootfs", busybox_rootfs, "--init", "/again",
                      "--strategy", "chown")  # fmt: skip
    pids = set()

    def has_rebooted() -> bool:
        pids.add(cli.json("container", "verify", "web1")["init_pid"])
        return len(pids) > 2

    wait_for(has_rebooted, 60)
    (busybox_rootfs / "rest").touch()


def test_a_host_that_is_short_of_descriptors(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    run(cli, busybox_rootfs)
    manager = cli.manager()
    manager.verify("web1", started=False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(4):
            os.close(held.pop())
        with pytest.raises((LxcUsernsError, OSError)):
            manager.verify("web1", started=False)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    # It is none of its faults.
    assert manager.verify("web1", started=False).name == "web1"


def test_an_upgrade_beside_running_containers(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    run(cli, busybox_rootfs)
    manager = cli.manager()
    record = cli.state / "instances/web1.json"
    data = json.loads(record.read_text())
    for key in ("needs", "devices", "mode_reasons"):
        del data[key]
    record.write_text(json.dumps(data | {"format": 2}))
    request = InstanceRequest(
        "web1", data["uuid"], str(busybox_rootfs), hostname="web1"
    )
    assert manager.prepare(request).mode_reasons == ()
    assert manager.verify("web1", started=False).mode == "private"
