# SPDX-License-Identifier: Apache-2.0
"""Running domains, as told without libvirtd."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains
from tests.functional.foreign import running

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


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


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


def test_controller_is_killed(
    libvirt_connection: libvirt.virConnect, shared_rootfs: Path
) -> None:
    with running(libvirt_connection, "vm", shared_rootfs) as vm:
        os.kill(vm.domain.ID(), signal.SIGKILL)
        wait_for(lambda: RUNNING.find("vm") is None)
