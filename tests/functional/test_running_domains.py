# SPDX-License-Identifier: Apache-2.0
"""Running domains, as told without libvirtd."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains
from tests.functional.foreign import running
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

RUNNING = RunningDomains()


def names() -> list[str]:
    return sorted(each.name for each in RUNNING.list())


def programs(pid: int) -> list[str]:
    """Programs of a container, by the process ID of its first process."""
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for other in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{other}/ns/pid") == namespace:
                found.append(Path(os.readlink(f"/proc/{other}/exe")).name)
    return found


def test_running_paused_and_ended(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    with running(libvirt_connection, "vm", shared_rootfs) as vm:
        expected = RunningDomain("vm", vm.domain.ID(), vm.domain.UUIDString())
        assert RUNNING.find("vm") == expected
        assert RUNNING.find("v") is None
        vm.domain.suspend()
        assert RUNNING.find("vm") == expected
        vm.domain.resume()
    assert RUNNING.find("vm") is None


def test_libvirtd_does_not_answer(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    """The same as while it runs a hook."""
    with running(libvirt_connection, "vm", shared_rootfs):
        found = daemon.find()
        assert found is not None
        os.kill(found.pid, signal.SIGSTOP)
        try:
            assert names() == ["vm"]
        finally:
            os.kill(found.pid, signal.SIGCONT)


def test_another_libvirt_lxc(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    """A container's own program of that name, called the same way."""
    own = shared_rootfs / "bin/libvirt_lxc"
    shutil.copy(shared_rootfs / "bin/busybox", own)
    call = "exec -a busybox /bin/libvirt_lxc sh -c 'sleep 1000; :' --name vm2"
    with running(libvirt_connection, "vm", shared_rootfs, f"({call}) &") as vm:
        wait_for(lambda: "libvirt_lxc" in programs(vm.init))
        assert names() == ["vm"]


def test_a_libvirt_lxc_of_a_user(reachable_path: Path) -> None:
    """A program of a user of the host, called the same way."""
    own = reachable_path / "libvirt_lxc"
    shutil.copy("/bin/bash", own)
    user = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups")
    argv = [*user, str(own), "-c", "echo; sleep 1000; :", "--name", "vm"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, process_group=0
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"\n"
            assert RUNNING.find("vm") is None
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_another_mount_namespace(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    """The files of its libvirtd are out of sight, as those of others."""
    script = (
        "from lxc_userns.libvirtd.status import RunningDomains as R; "
        "print([(each.name, each.uuid) for each in R().list()])"
    )
    hidden = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
        'mount -t tmpfs none /run; exec "$@"',
        "sh",
    )
    with running(libvirt_connection, "vm", shared_rootfs) as vm:
        argv = [*hidden, sys.executable, "-c", script]
        said = subprocess.check_output(argv, text=True, timeout=60)
        assert said == f"[('vm', '{vm.domain.UUIDString()}')]\n"


def test_which_one_of_a_name(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    other = "5dce174d-7133-416f-be8b-e0fc2fac55de"
    with running(libvirt_connection, "vm", shared_rootfs) as vm:
        assert RUNNING.find("vm", vm.domain.UUIDString()) is not None
        assert RUNNING.find("vm", other) is None
        # What nothing tells of may be any.
        unknown = RunningDomains(Path("/nonexistent"))
        assert unknown.find("vm", other) is not None


def test_its_first_process(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    with running(libvirt_connection, "vm", shared_rootfs) as vm:
        found = RUNNING.find("vm")
        assert found is not None
        with found.init_process() as init:
            assert init.pid == vm.init
    with pytest.raises(ProcessLookupError), found.init_process():
        pytest.fail("it has ended")


def test_without_the_right_to_trace(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    """A process that cannot be looked into counts by what it says."""
    script = (
        "from lxc_userns.libvirtd.status import RunningDomains as R; "
        "print([each.name for each in R().list()])"
    )
    lesser = ("setpriv", "--bounding-set", "-sys_ptrace", "--")
    with running(libvirt_connection, "vm", shared_rootfs):
        argv = [*lesser, sys.executable, "-c", script]
        said = subprocess.check_output(argv, text=True, timeout=60)
        assert said == "['vm']\n"


def test_controller_is_killed(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    with running(libvirt_connection, "vm", shared_rootfs) as vm:
        os.kill(vm.domain.ID(), signal.SIGKILL)
        wait_for(lambda: RUNNING.find("vm") is None)
