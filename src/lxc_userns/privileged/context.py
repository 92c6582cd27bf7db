# SPDX-License-Identifier: Apache-2.0
"""Context of oslo.privsep: what the privileged helper may do."""

from __future__ import annotations

from typing import Final

from oslo_privsep import capabilities, priv_context

SECTION: Final = "lxc_userns_privileged"

#: Why each is needed: mounts and user namespaces (SYS_ADMIN), ID maps of
#: others (SETUID, SETGID), owners on disk (CHOWN), in trees that belong to
#: others (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER), with set-ID bits (FSETID),
#: file capabilities (SETFCAP) and flags (LINUX_IMMUTABLE); to look at
#: containers (SYS_PTRACE) and what they have mounted (SYS_CHROOT); disks are
#: mounted in a root directory with no other device (MKNOD, SYS_CHROOT).
CONTEXT: Final = priv_context.PrivContext(
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
