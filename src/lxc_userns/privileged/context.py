# SPDX-License-Identifier: Apache-2.0
"""Context of oslo.privsep: what the privileged helper may do."""

from __future__ import annotations

from threading import Thread
from typing import Final

from oslo_privsep import capabilities, comm, priv_context

SECTION: Final = "lxc_userns_privileged"


class Context(priv_context.PrivContext):
    """A context whose calls end if the helper does, in whatever way."""

    def start(
        self, method: priv_context.Method = priv_context.Method.ROOTWRAP
    ) -> None:
        """Start the helper, and look after its end."""
        super().start(method)
        if self.channel is not None:
            end = Thread(target=end_with, args=(self.channel,), daemon=True)
            end.start()


def end_with(channel: comm.ClientChannel) -> None:
    """End all calls of a channel when its thread has ended.

    Of a helper that was killed before it had read a call, the end is no end of
    file but an error, with which oslo.privsep's thread ends as well: those who
    call would wait for ever, and no other helper would be started.
    """
    channel.reader_thread.join()
    with channel.lock:
        channel.running = False
        for each in channel.outstanding_msgs.values():
            each.set_exception(ConnectionResetError("helper was killed"))


#: Why each is needed: mounts and user namespaces (SYS_ADMIN), ID maps of
#: others (SETUID, SETGID), owners on disk (CHOWN), in trees that belong to
#: others (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER), with set-ID bits (FSETID),
#: file capabilities (SETFCAP) and flags (LINUX_IMMUTABLE); to look at
#: containers (SYS_PTRACE) and what they have mounted (SYS_CHROOT); disks are
#: mounted in a root directory with no other device (MKNOD, SYS_CHROOT).
CONTEXT: Final = Context(
    "lxc_userns",
    cfg_section=SECTION,
    # What sudo lets through has this name.
    pypath="lxc_userns.privileged.CONTEXT",
    capabilities=[
        capabilities.CAP_CHOWN,
        capabilities.CAP_DAC_OVERRIDE,
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_FOWNER,
        capabilities.CAP_FSETID,
        capabilities.CAP_KILL,
        capabilities.CAP_LINUX_IMMUTABLE,
        capabilities.CAP_MKNOD,
        capabilities.CAP_SETFCAP,
        capabilities.CAP_SETGID,
        capabilities.CAP_SETPCAP,
        capabilities.CAP_SETUID,
        capabilities.CAP_SYS_ADMIN,
        capabilities.CAP_SYS_CHROOT,
        capabilities.CAP_SYS_PTRACE,
    ],
)
