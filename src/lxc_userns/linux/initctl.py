# SPDX-License-Identifier: Apache-2.0
"""Requests to System V's init, by the pipe that it reads (:manpage:`init(8)`).

libvirt writes the same request to /run/initctl as the host's root, whatever
that is: a link of the container's to a file in its /proc that only the host's
root may write to, as sysrq-trigger, is followed. Here no path of the container
is looked up: the pipe is the one that its init has open.
"""

from __future__ import annotations

import os
import stat
import struct

from lxc_userns.linux.fd import reopen
from lxc_userns.linux.process import Process

# initreq.h of sysvinit; the descriptor is PIPE_FD of its init.c.
_MAGIC, _RUN_LEVEL, _SIZE = 0x03091969, 1, 384
_PIPE = 10
_POWER_OFF = struct.pack("=4i", _MAGIC, _RUN_LEVEL, ord("0"), 0)


def ask(init: Process) -> bool:
    """Ask an init to power off.

    It can take as long as a filesystem of the container's makes it take.

    :param init: the first process of a container.
    :returns: whether it was asked: it has the pipe open, and room in it.
    :raises OSError: if the pipe cannot be written to.
    """
    request = _POWER_OFF.ljust(_SIZE, b"\0")
    with init.opened_file(_PIPE) as (fd, name):
        # Held first: what is opened for writing is what was looked at.
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        if not is_pipe or os.path.basename(name) != "initctl":
            return False
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        with reopen(fd, flags) as pipe:
            try:
                return os.write(pipe, request) == _SIZE
            except BlockingIOError:
                return False
