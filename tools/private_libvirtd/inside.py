# SPDX-License-Identifier: Apache-2.0
"""Inside the namespaces: libvirtd, the command, and the end of both."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from private_libvirtd import cgroups, daemon
from private_libvirtd.plan import Plan, PrivateLibvirtdError
from private_libvirtd.supervise import supervise

STATE_DIRECTORIES = [
    Path("/etc/libvirt"),
    Path("/run/libvirt"),
    Path("/var/cache/libvirt"),
    Path("/var/lib/libvirt"),
    Path("/var/log/libvirt"),
]
# By way of the bus, libvirtd would have the host's systemd make its
# containers' control groups, and that knows them by other process IDs.
BUS = Path("/run/dbus")


def enter(plan: Plan) -> NoReturn:
    """Join the run's control groups, and make them roots to what follows."""
    for cgroup in plan.cgroups:
        cgroup.join()
    os.set_inheritable(plan.lifeline, True)
    argv = ["unshare", "--cgroup", sys.executable, sys.argv[0]]
    os.execvp(argv[0], [*argv, "--serve", plan.dumps()])


def serve(plan: Plan) -> int:
    """Be the first process: with its end the kernel kills all others.

    :returns: the command's exit status.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    os.set_inheritable(plan.lifeline, False)
    try:
        cgroups.remount_all(plan.cgroups)
        mount_state_directories()
        mount_security_settings()
        libvirtd = daemon.start()
        command = start(plan.command)
        # Both are kept until here: an unused Popen reaps its process itself.
        return supervise(command.pid, plan.lifeline, libvirtd.pid)
    finally:
        # A frozen process cannot be killed; the kernel would wait for it.
        for cgroup in plan.cgroups:
            cgroups.thaw(cgroup.mount)


def mount_state_directories() -> None:
    """Cover libvirt's directories, but for a copy of its configuration."""
    settings = {
        path: path.read_bytes() for path in Path("/etc/libvirt").glob("*.conf")
    }
    # Profiles of a security module would go into the host's kernel.
    settings[Path("/etc/libvirt/lxc.conf")] = b'security_driver = "none"\n'
    for directory in filter(Path.is_dir, [*STATE_DIRECTORIES, BUS]):
        argv = ["mount", "--no-mtab", "-t", "tmpfs", "-o", "mode=755"]
        argv += ["private-libvirtd", str(directory)]
        subprocess.run(argv, check=True)
    for path, content in settings.items():
        path.write_bytes(content)


def mount_security_settings() -> None:
    """Mount securityfs, as a host with a security module has it.

    Then libvirt shows it to each container that has no user namespace of its
    own.
    """
    point = Path("/sys/kernel/security")
    if point.is_dir() and not point.is_mount():
        argv = ["mount", "--no-mtab", "-t", "securityfs"]
        subprocess.run([*argv, "securityfs", str(point)], check=True)


def start(
    command: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the command as the caller would.

    :param environment: None: the caller's.
    """
    try:
        return subprocess.Popen(command, env=environment)
    except FileNotFoundError as err:
        raise PrivateLibvirtdError(str(err), 127) from err
    except OSError as err:
        raise PrivateLibvirtdError(str(err), 126) from err
