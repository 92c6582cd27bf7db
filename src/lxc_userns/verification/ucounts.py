# SPDX-License-Identifier: Apache-2.0
"""Limits of user namespaces for one container.

The kernel counts inotify instances and the like for a user of a user
namespace, and once more for the user who has made the namespace: for libvirt's
containers that is the root of the host, whatever their ID maps are. One
container could use up what all others, and the host's root, have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lxc_userns.linux import ucounts

if TYPE_CHECKING:
    from lxc_userns.linux.process import Process


def halve(limits: Mapping[str, int]) -> dict[str, int]:
    """Return half of each limit, so that others have some left.

    :param limits: what the host's root may have, by name.
    """
    return {
        name: max(1, limit // 2) for name, limit in limits.items() if limit > 0
    }


def apply(init: Process) -> None:
    """Limit a container; safe to repeat.

    :param init: its first process, in a user namespace of its own.
    :raises OSError: if it cannot be limited.
    :raises ProcessLookupError: if it has ended.
    """
    with init.opened_namespace("user") as namespace:
        ucounts.write(namespace, halve(ucounts.read()))
