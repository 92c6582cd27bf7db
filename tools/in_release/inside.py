# SPDX-License-Identifier: Apache-2.0
"""Inside the namespaces: the root of the release, and the command."""

import os
import signal
import subprocess
from pathlib import Path

from platforms.checkout import CHECKOUT
from private_libvirtd import cgroups
from private_libvirtd.inside import start
from private_libvirtd.supervise import supervise

from in_release.plan import ReleasePlan
from in_release.settings import make_environment, write_settings

#: Directory of the checkout in the release; tests cover /srv and /home.
WORK = f"/usr/src/{CHECKOUT}"
HOSTNAME = "in-release"
#: In the root, in memory, as Debian 13 has it: a filesystem beside /var/tmp.
IN_MEMORY = {"run": "mode=755", "tmp": "mode=1777"}


def serve(plan: ReleasePlan) -> int:
    """Be the first process: with its end the kernel kills all others.

    :returns: the command's exit status.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    os.set_inheritable(plan.lifeline, False)
    try:
        cgroups.remount_all(plan.cgroups)
        mount_root(Path(plan.directory))
        environment = make_environment(os.environ)
        environment["PATH"] = f"{WORK}/.venv/bin:{environment['PATH']}"
        command = start(plan.command, environment)
        return supervise(command.pid, plan.lifeline)
    finally:
        # A frozen process cannot be killed; the kernel would wait for it.
        for cgroup in plan.cgroups:
            cgroups.thaw(cgroup.mount)


def mount_root(directory: Path) -> None:
    """Mount the disk, put the checkout there, and make it the root."""
    root = directory / "root"
    mount("-o", "loop,barrier=0", str(directory / "disk"), str(root))
    argv = ["tar", "--extract", "--preserve-permissions"]
    argv += ["--file", str(directory / "checkout.tar")]
    subprocess.run([*argv, "--directory", str(root / "usr/src")], check=True)
    # Newer than the checkout, which needs nothing more.
    (root / f"{WORK[1:]}/.venv/.installed").touch()
    write_settings(root)
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("--rbind", "/dev", str(root / "dev"))
    mount("--rbind", "/sys", str(root / "sys"))
    for name, options in IN_MEMORY.items():
        mount("-t", "tmpfs", "-o", options, "in-release", str(root / name))
    (root / "run/lock").mkdir(mode=0o1777)
    Path("/proc/sys/kernel/hostname").write_text(HOSTNAME)
    pivot(root)
    os.chdir(WORK)


def mount(*arguments: str) -> None:
    """Mount something; /run/mount is the host's."""
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)


def pivot(root: Path) -> None:
    """Make a mount the root of all that is in the mount namespace."""
    # The old root lies on the new one then, whose umount is taken.
    script = "pivot_root . . && exec umount -l ."
    subprocess.run(["sh", "-c", script], cwd=root, check=True)
