# SPDX-License-Identifier: Apache-2.0
"""Outside the namespaces: prepare, wait, and see that all is gone."""

import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

from private_libvirtd.cgroups import Cgroup, plan_cgroups, remove_all
from private_libvirtd.inside import STATE_DIRECTORIES
from private_libvirtd.plan import Plan, PrivateLibvirtdError

PROGRAMS = ["libvirtd", "mount", "umount", "unshare", "virsh"]
# The extended attribute of directories that are ours to remove.
MARK = "trusted.lxc_userns.private_libvirtd"


def outside(command: list[str]) -> int:
    """Run the command inside, and wait until all of the run is gone.

    :returns: the command's exit status.
    """
    cgroups = check_host()
    reader, writer = os.pipe()
    pass_signals_on(writer)
    # Shared for as long as the run stands on the host's directories.
    lock = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)

    def clean_up() -> bool:
        gone = remove_all(cgroups)
        with contextlib.suppress(BlockingIOError):
            # Without the lock, another run still stands on the directories.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_state_directories()
        return gone

    watcher = start_watcher(reader, writer, clean_up)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        make_state_directories()
        for cgroup in cgroups:
            cgroup.make()
        return run_inside(Plan(reader, cgroups, command))
    finally:
        os.close(writer)
        _, left = os.waitpid(watcher, 0)
        if left:
            raise PrivateLibvirtdError(
                f"could not remove {cgroups[0].directory} and alike"
            )


def check_host() -> list[Cgroup]:
    """Refuse early what cannot work; plan the run's control groups."""
    if os.geteuid() != 0:
        raise PrivateLibvirtdError("run as root")
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise PrivateLibvirtdError(f"not installed: {' '.join(missing)}")
    # Of a run whose watcher was killed too, what it made may still be there.
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    cgroups = plan_cgroups(f"private-libvirtd.{unique}")
    if not cgroups:
        raise PrivateLibvirtdError("no cgroup hierarchy is mounted")
    return cgroups


def pass_signals_on(writer: int) -> None:
    """Tell the inside of TERM and HUP; INT comes there from the terminal."""

    def send(number: int, _: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, bytes([number]))

    signal.signal(signal.SIGTERM, send)
    signal.signal(signal.SIGHUP, send)
    signal.signal(signal.SIGINT, lambda *_: None)


def run_inside(plan: Plan) -> int:
    """Run the rest of this program in new namespaces."""
    argv = ["unshare", "--mount", "--propagation", "private"]
    # libvirt gives its own name to whose UTS namespace a container shares.
    argv += ["--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv += [sys.executable, sys.argv[0], "--enter", plan.dumps()]
    with subprocess.Popen(argv, pass_fds=[plan.lifeline]) as process:
        status = process.wait()
    return 128 - status if status < 0 else status


def make_state_directories() -> None:
    """Make what is missing of the directories to be covered."""
    for directory in STATE_DIRECTORIES:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o755)
            os.setxattr(directory, MARK, b"")


def remove_state_directories() -> None:
    """Remove those that :func:`make_state_directories` made, in any run."""
    for directory in STATE_DIRECTORIES:
        # Not there, not marked, or not empty: it is somebody else's.
        with contextlib.suppress(OSError):
            os.getxattr(directory, MARK)
            directory.rmdir()


def start_watcher(
    reader: int, writer: int, clean_up: Callable[[], bool]
) -> int:
    """Start the process that cleans up when the outside is gone.

    :param clean_up: removes what the run made, and tells if all is gone.
    :returns: its process ID; its exit status is 0 if it left nothing.
    """
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        try:
            wait_for_end(reader)
            os._exit(0 if clean_up() else 1)
        finally:
            os._exit(1)
    return pid


def wait_for_end(reader: int) -> None:
    """Wait for the end of the pipe, whatever ends the run."""
    # What ends our caller, or all of its terminal, is not meant for us; nor
    # is anybody to wait for us who waits for the end of its output.
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)

    poll = select.poll()
    # Without reading: the bytes are for the inside.
    poll.register(reader, 0)
    poll.poll()
