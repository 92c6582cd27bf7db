# SPDX-License-Identifier: Apache-2.0
"""Verbs of the manager for a service that is not root.

They run in a daemon of oslo.privsep, the privileged helper, or in the calling
process if that is root and has no daemon. They take and give what those of
:class:`~lxc_userns.UserNamespaceManager` do, and raise the same errors. The
daemon has read configuration files of its own: with each call it is told what
the service has, and it serves none that has anything else.

The service is trusted with names, with a mode within the policy, and with the
size of a lease. It is not with paths: root filesystems, volumes and devices
are below directories that the helper's configuration names.
"""

from lxc_userns.privileged.context import CONTEXT
from lxc_userns.privileged.verbs import (
    allocate,
    find_problems,
    prepare,
    release,
    sync,
    unmount,
    verify,
)

__all__ = [
    "CONTEXT",
    "allocate",
    "find_problems",
    "prepare",
    "release",
    "sync",
    "unmount",
    "verify",
]
