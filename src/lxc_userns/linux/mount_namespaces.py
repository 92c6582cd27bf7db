# SPDX-License-Identifier: Apache-2.0
"""Mount namespaces of others (:manpage:`mount_namespaces(7)`)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from lxc_userns.linux import namespaces
from lxc_userns.linux.bounds import at_most
from lxc_userns.linux.fd import open_file
from lxc_userns.linux.mounts import Mount, parse_all
from lxc_userns.linux.process import Process


def read(process: Process, limit: int) -> list[Mount]:
    """Return the mounts of a process's namespace, wherever its root is.

    The ``mountinfo`` of a process leaves out what is not below its root
    directory, which it can change.

    :param limit: how many mounts there may be.
    :returns: nothing if the caller's threads are none to the kernel: all of
        it would be in that namespace.
    :raises ProcessLookupError: if the process has ended.
    :raises BoundExceededError: if there are more.
    :raises OSError: if the namespace cannot be entered.
    """
    if not namespaces.has_native_threads():
        return []
    with (
        process.opened_namespace("mnt") as fd,
        ThreadPoolExecutor(1) as thread,
    ):
        return thread.submit(_read_inside, fd, limit).result()


def _read_inside(fd: int, limit: int) -> list[Mount]:
    # Only for this thread, which ends with that. What it reads is by a
    # descriptor of the host's /proc, and nothing of the container is opened.
    with open_file("/proc", os.O_PATH | os.O_DIRECTORY) as proc:
        namespaces.unshare_working_directory()
        namespaces.setns(fd, namespaces.CLONE_NEWNS)
        flags = os.O_RDONLY | os.O_CLOEXEC
        own = os.open("thread-self/mountinfo", flags, dir_fd=proc)
    with open(own, "rb") as stream:
        return [*at_most(limit, parse_all(stream), "mounts")]
