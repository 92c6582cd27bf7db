# SPDX-License-Identifier: Apache-2.0
"""Limits that a container's root wants to be rid of, on a real kernel.

Control groups of either version: of version 1 libvirt's own groups are
root's; of version 2 they have been the container's.
"""

import glob
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns.domain.limits import ResourceLimits
from lxc_userns.linux.cgroup_files import remove
from lxc_userns.linux.cgroups import Group
from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from lxc_userns.linux.systemd import has_machined
from lxc_userns.resources import differences, processes
from lxc_userns.resources.groups import ContainerGroups
from tests.functional.command_line import BASE, CommandLine
from tests.functional.guest import call, enter
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

HERE = Path(__file__).parent
SLEEP = "/bin/sleep 1000"
MEBIBYTE = 1 << 20
HIERARCHY = Path("/sys/fs/cgroup")
IS_UNIFIED = (HIERARCHY / "cgroup.controllers").exists()


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("")


@pytest.fixture
def rootfs(busybox_rootfs: Path) -> Path:
    """A root filesystem with the program ``exhaust``."""
    argv = ["gcc", "-static", "-pthread", "-O1", "-Wall", "-Wextra", "-Werror"]
    argv += ["-o", str(busybox_rootfs / "bin/exhaust")]
    subprocess.run([*argv, str(HERE / "exhaust.c")], check=True, timeout=60)
    return busybox_rootfs


def run(
    cli: CommandLine,
    rootfs: Path,
    script: str,
    *options: str,
    name: str = "web1",
) -> int:
    """Run a container that waits for its word, then does what a script says.

    :returns: its first process.
    """
    (rootfs / "try").write_text(
        "PATH=/bin:/sbin\n"
        f"{script}\n"
        "exec sleep 1000\n"
    )  # fmt: skip
    shown = cli.json("container", "run", name, "--rootfs", rootfs,
                     "--init", "/bin/sh /try", *options)  # fmt: skip
    return int(shown["init_pid"])


def wait_in_script(name: str) -> str:
    return f"until [ -e /{name} ]; do usleep 10000; done"


def touch(pid: int, name: str) -> None:
    """Make a file in a container, as its root does."""
    # Not in its control groups, which may have no room for one more.
    which = "--user", "--mount", "--root"
    call(*enter(pid, *which), "/bin/busybox", "touch", f"/{name}")


def said(pid: int, name: str = "said") -> str:
    """Return what a container has written to a file, once it has."""
    path = Path(f"/proc/{pid}/root/{name}")
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


def controller_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def own_group(pid: int, controller: str) -> Path:
    """libvirt's group for a container."""
    wanted = "" if IS_UNIFIED else controller
    path = Path(f"/proc/{controller_of(pid)}/cgroup")
    for line in path.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if wanted in controllers.split(","):
            top = HIERARCHY if IS_UNIFIED else HIERARCHY / controller
            return Path(f"{top}{group}")
    raise AssertionError(f"{controller}: no group")


def limiting_group(pid: int, controller: str) -> Path:
    """The group in which its limits hold."""
    if IS_UNIFIED:
        return own_group(pid, controller).parent
    if controller == "pids":
        path = Path(f"/proc/{pid}/cgroup").read_text()
        (group,) = (
            line.split(":", 2)[2]
            for line in path.splitlines()
            if ":pids:" in line
        )
        return Path(f"{HIERARCHY}/pids{group}")
    return own_group(pid, controller)


def processes_in(group: Path) -> set[int]:
    return set(map(int, (group / "cgroup.procs").read_text().split()))


def groups_left(name: str) -> list[Path]:
    """Groups that were made for a container."""
    return [
        Path(path)
        for pattern in (f"**/lxc-userns/{name}", f"**/lxc-userns-{name}.*")
        # pathlib's raises for a group that goes meanwhile.
        for path in glob.glob(f"{HIERARCHY}/{pattern}", recursive=True)
    ]


#: Nothing else is begun then, for that would fail.
EXHAUST = "exec exhaust threads all >/said"
#: The default once, which takes an emulated processor a while.
STRATEGIES = [("idmapped", 4096), ("overlay", 300), ("chown", 300)]


@pytest.mark.parametrize(("strategy", "most"), STRATEGIES)
def test_processes_stop_at_the_limit(
    cli: CommandLine, rootfs: Path, strategy: str, most: int
) -> None:
    script = f"{wait_in_script('go')}\n{EXHAUST}"
    limit = () if most == 4096 else ("--pids-limit", str(most))
    pid = run(cli, rootfs, script, "--strategy", strategy, *limit)
    assert cli.json("container", "show", "web1")["max_processes"] == most
    touch(pid, "go")
    number, error = said(pid).split()
    # Besides what else may run just then, as libvirt's own.
    assert most - 16 < int(number) < most
    assert error == "EAGAIN"
    group = limiting_group(pid, "pids")
    assert (group / "pids.max").read_text() == f"{most}\n"
    assert (group / "pids.max").stat().st_uid == 0
    # It is as promised for all that.
    assert cli("container", "verify", "web1").code == 0
    assert cli("container", "destroy", "web1").code == 0
    assert groups_left("web1") == []


def test_two_containers_leave_the_host_some(
    cli: CommandLine, rootfs: Path, tmp_path: Path
) -> None:
    script = f"{wait_in_script('go')}\n{EXHAUST}"
    other = tmp_path / "other"
    shutil.copytree(rootfs, other, symlinks=True)
    pids = [
        run(cli, tree, script, name=name)
        for name, tree in (("web1", rootfs), ("web2", other))
    ]
    for pid in pids:
        touch(pid, "go")
    for pid in pids:
        number, error = said(pid).split()
        assert (error, int(number) < 4096) == ("EAGAIN", True)
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    counts = [
        int((limiting_group(pid, "pids") / "pids.current").read_text())
        for pid in pids
    ]
    assert max(counts) <= 4096
    assert sum(counts) < most
    assert cli("container", "show", "web1").code == 0


def test_one_that_has_more_than_it_may_before_it_is_limited(
    cli: CommandLine, rootfs: Path
) -> None:
    """It has it by its first act; it is limited from then on, or ended.

    It has the memory for them: without, the kernel would end it.
    """
    (rootfs / "try").write_text(f"PATH=/bin\n{EXHAUST}\n")
    done = cli("container", "run", "web1", "--rootfs", rootfs,
               "--init", "/bin/sh /try", "--pids-limit", "300",
               "--memory", "2048")  # fmt: skip
    if done.code:
        assert "processes and threads, promised were 300 at most" in done.err
        assert cli.json("container", "list") == []
        return
    pid = cli.json("container", "show", "web1")["init_pid"]
    number, error = said(pid).split()
    assert (error, int(number) < 300) == ("EAGAIN", True)


def test_it_begins_processes_all_the_time(
    cli: CommandLine, rootfs: Path
) -> None:
    """None is begun where no limit is."""
    script = (
        "(while :; do (:) & (:) & (:) & (usleep 1; :) & wait; done) &\n"
        "(while :; do sh -c 'sh -c : &' & wait; done) &"
    )
    pid = run(cli, rootfs, script, "--pids-limit", "100")
    group = limiting_group(pid, "pids")

    def all_are_limited() -> bool:
        listed = processes_in(own_group(pid, "memory"))
        # libvirt's own process is not in a group of ours.
        return listed - processes_in(group) <= {controller_of(pid)}

    # Once they all are, those that they begin are too.
    if not IS_UNIFIED:
        wait_for(all_are_limited)
    assert int((group / "pids.current").read_text()) <= 100
    # Those that end while they are looked for are no difference.
    with Process(pid) as init:
        for _ in range(500):
            assert differences("web1", init, ResourceLimits(), 100) == []


@pytest.mark.skipif(IS_UNIFIED, reason="limits of version 1")
def test_a_process_that_is_exiting() -> None:
    """The kernel does not move one, and shows it until its memory is gone."""
    source = HIERARCHY / "memory/lxc-userns-test-exiting"
    target = HIERARCHY / "pids/lxc-userns-test-exiting"
    groups = ContainerGroups(
        {"memory": Group("memory", str(source), is_own=True, controls=True)}
    )
    argv = [sys.executable, "-c", TO_EXIT]
    with (
        groups_of(source, target),
        subprocess.Popen(argv, stdout=subprocess.PIPE) as exiting,
    ):
        assert exiting.stdout is not None
        assert exiting.stdout.readline() == b"ready\n"
        (source / "cgroup.procs").write_text(str(exiting.pid))
        exiting.kill()
        status = Path(f"/proc/{exiting.pid}/stat")
        while not is_exiting(status.read_text()):
            pass
        processes.move_all(groups, 0, str(target))
        assert processes.are_all_inside(groups, 0, str(target))
        assert exiting.wait() == -signal.SIGKILL


#: A process with as much memory as takes the kernel a while to give back.
TO_EXIT = """
import mmap, time
memory = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for start in range(0, 1 << 30, 4096):
    memory[start] = 1
print("ready", flush=True)
time.sleep(1000)
"""


def is_exiting(status: str) -> bool:
    """Return whether the flags of a process have PF_EXITING."""
    return bool(int(status.rpartition(")")[2].split()[6]) & 4)


@contextmanager
def groups_of(*paths: Path) -> Iterator[None]:
    """Make control groups, and remove them once they are empty."""
    for path in paths:
        path.mkdir()
    try:
        yield
    finally:
        for path in paths:
            wait_for(partial(remove, str(path)))


def test_no_limit(cli: CommandLine, rootfs: Path) -> None:
    pid = run(cli, rootfs, "", "--pids-limit", "0")
    assert cli.json("container", "show", "web1")["max_processes"] == 0
    found = limiting_group(pid, "pids") / "pids.max"
    # systemd has one of its own for each container.
    if not has_machined():
        assert not found.exists() or found.read_text() == "max\n"
    for wrong in ("-1", "4194305"):
        error = cli("container", "run", "web2", "--rootfs", rootfs,
                    "--pids-limit", wrong).error(2)  # fmt: skip
        assert error.startswith(
            f"argument --pids-limit: {wrong}: expected 0..4194304; see "
        )


def test_the_configured_limit(
    command_line: Callable[[str], CommandLine], rootfs: Path
) -> None:
    cli = command_line("max_processes = 77\n")
    pid = run(cli, rootfs, "")
    group = limiting_group(pid, "pids")
    assert (group / "pids.max").read_text() == "77\n"
    # What it was promised counts, not what is configured meanwhile.
    config = cli.config.read_text()
    cli.config.write_text(config.replace("= 77", "= 99"))
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    assert groups_left("web1") == []
    pid = cli.json("container", "start", "web1")["init_pid"]
    assert (limiting_group(pid, "pids") / "pids.max").read_text() == "77\n"


OPEN = (
    "g=$(grep -E '^0::|:memory:' /proc/self/cgroup | tail -n 1)\n"
    "g=${g##*:}\n"
    "for f in /sys/fs/cgroup$g/memory.max"
    " /sys/fs/cgroup/memory$g/memory.limit_in_bytes; do\n"
    "  [ -e $f ] && m=$f\ndone\n"
    "case $m in *max) v=max;; *) v=-1;; esac\n"
)


@pytest.mark.parametrize("act", ["at once", "by a descriptor"])
def test_memory_that_its_root_unlimits(
    cli: CommandLine, rootfs: Path, act: str
) -> None:
    script = {
        "at once": f"{OPEN}echo $v >$m\n{wait_in_script('go')}",
        "by a descriptor": f"{OPEN}(exec 3>$m; {wait_in_script('go')};"
        "echo $v >&3; sleep 1000) & "
        + wait_in_script("go")
        + "; usleep 300000",
    }[act]
    script += (
        "\ndd if=/dev/zero of=/dev/null bs=256M count=1 2>/dev/null\n"
        "echo $? >/new; mv /new /said"
    )
    pid = run(cli, rootfs, script, "--memory", "64")
    touch(pid, "go")
    # Killed, unless it was swapped out.
    code = said(pid).strip()
    group = limiting_group(pid, "memory")
    limit = group / ("memory.max" if IS_UNIFIED else "memory.limit_in_bytes")
    assert int(limit.read_text()) == 64 * MEBIBYTE
    assert limit.stat().st_uid == 0
    peak = "memory.peak" if IS_UNIFIED else "memory.max_usage_in_bytes"
    assert int((group / peak).read_text()) <= 64 * MEBIBYTE
    swaps = Path("/proc/swaps").read_text().splitlines()
    assert code == "137" or len(swaps) > 1
    assert cli("container", "verify", "web1").code == 0


def test_it_cannot_write_where_the_limits_are(
    cli: CommandLine, rootfs: Path
) -> None:
    pid = run(cli, rootfs, "")
    places = {
        limiting_group(pid, controller) for controller in ("memory", "pids")
    }
    for place in places:
        for path in (place, *place.iterdir()):
            if not path.is_dir() or path == place:
                status = path.stat()
                assert status.st_uid == 0
                assert not status.st_mode & 0o022, path


def test_after_a_reboot_from_inside(cli: CommandLine, rootfs: Path) -> None:
    first = cli.run_to_reboot("boot", "--rootfs", rootfs,
                              "--pids-limit", "123",
                              "--memory", "64")  # fmt: skip
    wait_for(lambda: list(children(first["init_pid"])))
    os.kill(first["init_pid"], signal.SIGTERM)  # busybox init: reboot.

    def second() -> Any:
        (now,) = cli.json("container", "list")
        return now["init_pid"] not in (None, first["init_pid"])

    wait_for(second)
    pid = cli.json("container", "verify", "boot")["init_pid"]
    assert pid != first["init_pid"]
    pids = limiting_group(pid, "pids")
    assert (pids / "pids.max").read_text() == "123\n"
    if not IS_UNIFIED:
        assert str(pid) in (pids / "cgroup.procs").read_text().split()
    memory = limiting_group(pid, "memory")
    name = "memory.max" if IS_UNIFIED else "memory.limit_in_bytes"
    assert int((memory / name).read_text()) == 64 * MEBIBYTE


TUNING = """
<memtune><soft_limit unit='MiB'>48</soft_limit></memtune>
<cputune><shares>512</shares><period>50000</period><quota>25000</quota></cputune>
"""


def restart(
    cli: CommandLine, connection: libvirt.virConnect, old: str, new: str
) -> int:
    """Stop ``web1``, change its XML, and start it."""
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    xml = connection.lookupByName("web1").XMLDesc(
        libvirt.VIR_DOMAIN_XML_INACTIVE
    )
    assert old in xml
    connection.defineXML(xml.replace(old, new, 1))
    return int(cli.json("container", "start", "web1")["init_pid"])


def test_every_value_of_the_domain(
    cli: CommandLine,
    rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    run(cli, rootfs, "", "--memory", "64")
    pid = restart(cli, libvirt_connection, "<os>", f"{TUNING}<os>")
    pid = restart(
        cli, libvirt_connection, "<vcpu placement='static'>",
        "<vcpu placement='static' cpuset='0'>",
    )  # fmt: skip
    expected = {
        "memory.limit_in_bytes": str(64 * MEBIBYTE),
        "memory.soft_limit_in_bytes": str(48 * MEBIBYTE),
        "cpu.shares": "512",
        "cpu.cfs_quota_us": "25000",
        "cpu.cfs_period_us": "50000",
        "cpuset.cpus": "0",
    }
    if IS_UNIFIED:
        expected = {
            "memory.max": str(64 * MEBIBYTE),
            "memory.high": str(48 * MEBIBYTE),
            "cpu.max": "25000 50000",
            "cpu.weight": "512",
            "cpuset.cpus": "0",
        }
    for name, value in expected.items():
        group = limiting_group(pid, name.partition(".")[0])
        assert (group / name).read_text() == f"{value}\n"
    # What is set while it runs is its domain's too.
    domain = libvirt_connection.lookupByName("web1")
    domain.setMemoryFlags(32 << 10, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert cli("container", "verify", "web1").code == 0


OTHER_VALUES = {
    "memory.limit_in_bytes": str(128 * MEBIBYTE),
    "memory.soft_limit_in_bytes": str(128 * MEBIBYTE),
    "cpu.shares": "1024",
    "cpu.cfs_quota_us": "-1",
}
if IS_UNIFIED:
    OTHER_VALUES = {
        "memory.max": "max",
        "memory.high": "max",
        "cpu.weight": "1024",
        "pids.max": "max",
    }


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_value_that_differs(
    cli: CommandLine,
    rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    name: str,
) -> None:
    """libvirt's own value ends it; one that is ours is set again."""
    run(cli, rootfs, "", "--memory", "64")
    pid = restart(cli, libvirt_connection, "<os>", f"{TUNING}<os>")
    path = limiting_group(pid, name.partition(".")[0]) / name
    before = path.read_text().strip()
    path.write_text(OTHER_VALUES[name])
    assert path.read_text().strip() != before
    done = cli("container", "verify", "web1")
    if IS_UNIFIED:
        assert done.code == 0
        assert path.read_text().strip() == before
        return
    assert done.error().startswith(
        f"web1: {path} is {OTHER_VALUES[name]!r}, promised was {before}"
    )
    assert not libvirt_connection.lookupByName("web1").isActive()


def test_a_group_above_that_is_shared(
    cli: CommandLine,
    rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Of version 2 limits hold in a group that is neither's but root's."""
    run(cli, rootfs, "")
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    domain = libvirt_connection.lookupByName("web1")
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    partition = "<partition>/machine/lxc-userns-web1.partition</partition>"
    needed = IS_UNIFIED and not has_machined()
    assert (partition in xml) == needed
    without = xml.replace(partition, "<partition>/machine</partition>")
    libvirt_connection.defineXML(without)
    done = cli("container", "start", "web1")
    assert (done.code == 0) != needed
    if needed:
        assert "is that of other containers too; install" in done.error()
        assert not libvirt_connection.lookupByName("web1").isActive()


def test_systemd_keeps_its_groups(
    command_line: Callable[[str], CommandLine], busybox_rootfs: Path
) -> None:
    """Under version 1 without machined another container would get them."""
    program = busybox_rootfs / "lib/systemd/systemd"
    program.parent.mkdir(parents=True)
    argv = ["gcc", "-static", "-x", "c", "-o", str(program), "-"]
    source = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
    subprocess.run(argv, input=source, text=True, check=True)
    cli = command_line("")
    for name, init in (("one", "/lib/systemd/systemd"), ("two", SLEEP)):
        cli.json("container", "run", name, "--rootfs", busybox_rootfs,
                 "--strategy", "overlay", "--init", init)  # fmt: skip
    text = cli.config.read_text()
    other = BASE + 65536
    text = text.replace(f"0:{BASE}:", f"0:{other}:")
    cli.config.write_text(text)
    options = ["--rootfs", str(busybox_rootfs), "--strategy", "overlay"]
    options += ["--init", SLEEP]
    started = cli("container", "run", "three", *options)
    if IS_UNIFIED or has_machined():
        assert started.code == 0, started
        return
    assert started.error() == (
        "three: cannot start beside one, which runs systemd with other ID "
        "maps, and would lose its control groups: libvirt gives name=systemd "
        "of version 1 to one container at a time; install systemd-container, "
        "or stop that one first"
    )
    assert not (cli.run / "three").exists()
    assert cli("container", "stop", "one", "--timeout", "0").code == 0
    # One without systemd does not mind.
    assert cli("container", "run", "three", *options).code == 0
    assert cli("container", "start", "one").code == 0
