# SPDX-License-Identifier: Apache-2.0
"""Limits of user namespaces: ``/proc/sys/user`` (:manpage:`namespaces(7)`)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lxc_userns.linux import programs

_DIRECTORY = "/proc/sys/user"
# The kernel shows the limits of the namespace of whoever opens a file there,
# and only a process of a single thread can enter one: a program is executed
# that does. The host's own, for nothing of the container is to be run.
_ENTER = ("nsenter", "--setuid=0", "--setgid=0")
_SCRIPT = (
    'for each; do echo "${each#*=}" >"' + _DIRECTORY + '/${each%%=*}" '
    "|| exit; done"
)


def read() -> dict[str, int]:
    """Return the limits of the caller's user namespace, by name.

    Each is for every user by itself, as ``max_inotify_instances``.
    """
    found = {}
    for name in sorted(os.listdir(_DIRECTORY)):
        with open(f"{_DIRECTORY}/{name}", encoding="ascii") as stream:
            found[name] = int(stream.read())
    return found


def write(namespace: int, limits: Mapping[str, int]) -> None:
    """Set limits of another user namespace, for all users of it by itself.

    :param namespace: descriptor of it; user and group 0 of it are mapped.
    :param limits: by name.
    :raises OSError: if they cannot be set, with the reason.
    """
    programs.run(
        [
            *_ENTER,
            f"--user=/proc/self/fd/{namespace}",
            *("sh", "-c", _SCRIPT, "sh"),
            *(f"{name}={limit}" for name, limit in limits.items()),
        ],
        pass_fds=(namespace,),
    )
