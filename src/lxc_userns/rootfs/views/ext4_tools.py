# SPDX-License-Identifier: Apache-2.0
"""Growth of an unmounted ext4, by its own tools in a sandbox.

The kernel grows one that is mounted for CAP_SYS_RESOURCE alone, which neither
the privileged helper has nor a service in a container. ``e2fsck`` and
``resize2fs`` read what others have made: a user without rights runs them, who
has the disk and the programs of the host, and neither its files nor a network.
Whatever makes them do something else can change that disk, which is its own
already.
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import sys

from lxc_userns.linux import (
    mount_api,
    namespaces,
    prctl,
    program_root,
    programs,
)
from lxc_userns.linux.fd import open_file, owned

#: Bytes of address space; e2fsck takes some for each inode.
MEMORY = 2 << 30
#: Seconds of processor time of the check, which an image can make long. What
#: has passed it takes resize2fs as long as it is large.
CHECK_SECONDS = 600

_DISK = "/dev/disk"
_NEW = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWIPC
)
_READ_ONLY = mount_api.MOUNT_ATTR_RDONLY | mount_api.MOUNT_ATTR_NOSUID
#: Nothing is known of what is mounted, nor of what the kernel can: it clears
#: tables of inodes itself, which would be a 64th of the disk.
_ENVIRONMENT = {
    **programs.ENVIRONMENT,
    "EXT2FS_NO_MTAB_OK": "1",
    "RESIZE2FS_FORCE_LAZY_ITABLE_INIT": "1",
}
#: Exit codes of e2fsck(8): without errors, or they were corrected.
_SOUND = (0, 1)
#: As a shell has it.
_ABSENT = 127
#: Python ignores these, and what it executes would inherit that.
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


def run(device: int, user: tuple[int, int]) -> None:
    """Check an ext4, and grow it to all of its device.

    :param device: descriptor of the block device, which no one has mounted.
    :param user: user and group ID of whoever does it.
    :raises OSError: if that fails; the text says which of the tools has.
    """
    words = map(str, (device, *user))
    argv = programs.python_argv(__name__, *words)
    programs.run(argv, pass_fds=(device,))


def main() -> None:
    """Check and grow one, in a child that is the first process of its own."""
    device, uid, gid = map(int, sys.argv[2:])
    # Kept open: of a loop device that no one has open any more the number is
    # soon that of another image.
    os.set_inheritable(device, False)
    # The end of the caller, or an interrupt from its terminal, is not that of
    # resize2fs: an image of which it had done half might be lost.
    os.setsid()
    try:
        namespaces.unshare(_NEW)
        mount_api.set_attributes_of_all(_READ_ONLY)
        program_root.enter()
        _add_disk(os.fstat(device).st_rdev, uid, gid)
        mount_api.set_attributes_of_all(_READ_ONLY)
    except OSError as err:
        _end(f"no sandbox can be made for it: {err.strerror}")
    # This process has one thread and nothing but this to do.
    child = os.fork()
    if child == 0:
        try:
            _drop_rights(uid, gid)
            _end(_check() or _grow())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _end(failure: str) -> None:
    """End this process.

    :param failure: what went wrong; empty: nothing did.
    """
    os.write(2, failure.encode())
    os._exit(bool(failure))


def _add_disk(device: int, uid: int, gid: int) -> None:
    """Make the one device that there is."""
    directory = os.path.dirname(_DISK)
    os.mkdir(directory, 0o755)
    attributes = mount_api.MOUNT_ATTR_NOSUID
    with (
        owned(mount_api.mount("tmpfs", {"mode": "755"}, attributes)) as made,
        open_file(directory, os.O_PATH | os.O_DIRECTORY) as target,
    ):
        mount_api.attach(made, target)
    os.mknod(_DISK, stat.S_IFBLK | 0o600, device)
    os.chown(_DISK, uid, gid)


def _drop_rights(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    # With the last ID of root's all capabilities are gone.
    os.setresuid(uid, uid, uid)
    prctl.set_no_new_privileges()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _check() -> str:
    """Return what is wrong with the filesystem; empty: it can be grown."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (CHECK_SECONDS, most))
    code = _call("e2fsck", "-fp", _DISK)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    return "" if code in _SOUND else _describe("e2fsck", code)


def _grow() -> str:
    """Return what went wrong; empty: it has grown."""
    code = _call("resize2fs", _DISK)
    return _describe("resize2fs", code) if code else ""


def _describe(name: str, code: int) -> str:
    if code == _ABSENT:
        return f"{name} is not installed"
    if code < 0:
        return f"{name} was killed by signal {-code}"
    return f"{name} failed with exit code {code}"


def _call(name: str, *arguments: str) -> int:
    """Run one of them; its exit code, or minus the number of a signal."""
    try:
        pid = os.posix_spawnp(
            name,
            (name, *arguments),
            _ENVIRONMENT,
            # What it says has parts of the image in it.
            file_actions=[(os.POSIX_SPAWN_DUP2, 1, 2)],
            setsigdef=_SIGNALS,
        )
    except FileNotFoundError:
        return _ABSENT
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
