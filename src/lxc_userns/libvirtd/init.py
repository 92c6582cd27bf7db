# SPDX-License-Identifier: Apache-2.0
"""First process of a container, by libvirt's process in charge of it."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children


def find_init(controller: int) -> Process | None:
    """Return the first process of a container, held.

    :param controller: process ID of its ``libvirt_lxc``.
    :returns: None if it has not executed the container's program yet, or has
        ended.
    """
    for pid in children(controller):
        with suppress(ProcessLookupError), ExitStack() as stack:
            process = stack.enter_context(Process(pid))
            if _is_init(process, controller):
                stack.pop_all()
                return process
    return None


def _is_init(process: Process, controller: int) -> bool:
    # Asked of the held process: its number may have been another's.
    if not process.is_first or process.parent != controller:
        return False
    # Until it executes the container's program, it is a part of libvirt that
    # sets up the container, and may yet fail.
    with Process(controller) as libvirt_lxc:
        return process.executable != libvirt_lxc.executable
