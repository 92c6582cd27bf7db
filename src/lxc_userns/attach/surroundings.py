# SPDX-License-Identifier: Apache-2.0
"""The properties of a container that its first process has."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from lxc_userns.linux import cgroups, namespaces
from lxc_userns.linux.mounts import read_mounts
from lxc_userns.linux.process import Process

#: Of getrlimit(2), in the kernel's order, without gaps.
_LIMITS = range(16)
_UNCONFINED = "unconfined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Properties that make a process one of a container's.

    :param kinds: namespaces to enter, ``CLONE_NEW*``.
    :param bounding: its capability bounding set, as bits.
    :param no_new_privileges: whether no program may grant privileges.
    :param label: what to write to be executed with its security label; empty
        if there is no module that has any, or it confines nothing.
    :param limits: soft and hard resource limits, by number.
    :param oom_score_adj: how readily the kernel kills for want of memory.
    """

    kinds: int
    bounding: int
    no_new_privileges: bool
    label: str
    limits: tuple[tuple[int, int], ...]
    oom_score_adj: int

    @classmethod
    def read(cls, init: Process) -> Surroundings:
        """Read them from a process.

        :raises ProcessLookupError: if it has ended.
        """
        bounding, no_new_privileges = init.status("CapBnd", "NoNewPrivs")
        pid = int(init.pid)
        found = cls(
            kinds=_other_kinds(init),
            bounding=int(bounding, 16),
            no_new_privileges=no_new_privileges == "1",
            label=label_to_write(init.security_label),
            limits=tuple(resource.prlimit(pid, each) for each in _LIMITS),
            oom_score_adj=init.oom_score_adj,
        )
        _ = init.parent  # The number was its own until now.
        return found


def label_to_write(label: str) -> str:
    """Return what :manpage:`proc_pid_attr(5)` takes to execute with a label.

    :param label: as :attr:`Process.security_label`: an AppArmor profile with
        its mode in parentheses, or an SELinux context.
    """
    profile, blank, mode = label.rpartition(" ")
    if blank and mode.startswith("(") and mode.endswith(")"):
        return f"exec {profile}"
    return "" if label == _UNCONFINED else label


def find_groups(init: Process) -> list[cgroups.Group]:
    """Find the control groups of a process, one of each hierarchy.

    :raises ProcessLookupError: if it has ended.
    :raises OSError: if one that has controllers is not to be reached: what
        it limits would not be limited.
    """
    mine = init.cgroups
    found = [
        group
        for group in cgroups.groups(mine, [*read_mounts()])
        if group.is_own
    ]
    reached = {group.hierarchy for group in found}
    for controllers, path in mine.items():
        is_limiting = controllers and not controllers.startswith("name=")
        if is_limiting and path != "/" and controllers not in reached:
            raise OSError(
                f"its control group {path} of {controllers} is not mounted "
                "where this command runs; run it in the host's own namespaces"
            )
    return found


def _other_kinds(init: Process) -> int:
    """Return the kinds of namespaces that are not the caller's own.

    To enter one's own user namespace is refused (:manpage:`setns(2)`).
    """
    kinds = 0
    with Process("self") as this:
        for name, kind in namespaces.KINDS.items():
            if init.namespace(name) != this.namespace(name):
                kinds |= kind
    return kinds
