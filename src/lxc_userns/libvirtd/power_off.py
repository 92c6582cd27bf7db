# SPDX-License-Identifier: Apache-2.0
"""Request to stop, as the first process of a container understands it."""

from __future__ import annotations

import signal
from contextlib import suppress

from lxc_userns.linux import initctl
from lxc_userns.linux.process import Process

# SIGTERM makes busybox reboot and systemd execute itself anew.
_BUSYBOX = signal.SIGUSR2
_SYSTEMD = signal.SIGRTMIN + 4


def power_off(init: Process) -> None:
    """Ask a container to stop; nothing happens if it has ended.

    :param init: its first process.
    """
    with suppress(OSError):
        if init.program == "systemd":
            return init.send_signal(_SYSTEMD)
        if init.program == "busybox" and init.command == "init":
            return init.send_signal(_BUSYBOX)
        # System V's init ignores signals.
        with suppress(OSError):
            initctl.ask(init)
        return init.send_signal(signal.SIGTERM)
    return None
