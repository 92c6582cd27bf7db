# SPDX-License-Identifier: Apache-2.0
"""Policy: a user namespace of an instance's own, or the host's.

Pure: what is asked for and what is allowed in, a decision with its reasons
out. The operator's policy is a ceiling. A request may ask for less than it
allows, never for more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lxc_userns.exceptions import PolicyError
from lxc_userns.spec.requirements import DROPPED_PRIVATE, Mode, Requirements
from lxc_userns.spec.volume import Volume

#: ``required``: every instance is private; ``preferred``: one that cannot be
#: runs in the host's user namespace.
Policy = Literal["required", "preferred"]

#: Capabilities that give nothing in a user namespace that is not the host's
#: first: what they are for belongs to no namespace, and the kernel asks for
#: them there (user_namespaces(7), "Interaction of user namespaces and other
#: types of namespaces"). All but five were tried: what mac_admin,
#: mac_override, sys_module, sys_rawio and block_suspend are for is not in
#: every kernel.
HOST_CAPABILITIES: Final = frozenset(
    {
        "audit_control", "audit_write", "block_suspend", "ipc_lock", "lease",
        "linux_immutable", "mac_admin", "mac_override", "mknod",
        "sys_module", "sys_nice", "sys_pacct", "sys_rawio", "sys_resource",
        "sys_time", "sys_tty_config", "syslog", "wake_alarm",
    }
)  # fmt: skip

_REQUIRED: Final = "[lxc_userns] userns_policy = required asks for one"
#: Why the mode is ``host`` for all.
OFF: Final = (
    "user namespaces are off: neither ID maps are configured nor a pool"
)
_SHARING: Final = {
    "network": "the host's network namespace",
    "ipc": "the host's IPC namespace",
    "uts": "the host's UTS namespace",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """In which mode an instance runs, and why.

    :param mode: ``private`` or ``host``.
    :param reasons: a clause each, one or more.
    """

    mode: Mode
    reasons: tuple[str, ...]


def decide(
    name: str,
    policy: Policy,
    needs: Requirements,
    volumes: Sequence[Volume] = (),
    *,
    enabled: bool = True,
    in_use: Sequence[str] = (),
) -> Decision:
    """Decide in which mode an instance runs.

    :param name: name of the instance.
    :param policy: the operator's.
    :param needs: what it asks for.
    :param volumes: files of the host that it is to see.
    :param enabled: whether there are ID maps for it, or a pool of IDs.
    :param in_use: of the devices that it asks for, disks that the host uses
        itself.
    :raises PolicyError: if it may not run in the only mode in which it could;
        every reason is in it.
    """
    reasons = tuple(host_reasons(needs, volumes, in_use))
    if needs.mode == "private":
        hindrances = reasons if enabled else (OFF, *reasons)
        if hindrances:
            raise PolicyError(name, "it asks for one", hindrances)
        return Decision("private", ("it asks for that",))
    # Also while all is off: who asks for more is not to get in by that.
    if policy == "required" and reasons:
        raise PolicyError(name, _REQUIRED, reasons)
    if reasons or not enabled:
        return Decision("host", reasons if enabled else (OFF, *reasons))
    return Decision("private", ("nothing it asks for requires mode host",))


def check_ceiling(
    name: str,
    policy: Policy,
    needs: Requirements,
    volumes: Sequence[Volume] = (),
    *,
    enabled: bool = True,
) -> None:
    """Check whether an instance in mode ``host`` may start in it again.

    The operator may have changed the policy since that was decided, or may
    have turned user namespaces on. Arguments are as for :func:`decide`.

    :raises PolicyError: if it may not.
    """
    decision = decide(name, policy, needs, volumes, enabled=enabled)
    if policy == "required" and decision.mode == "private":
        raise PolicyError(
            name,
            _REQUIRED,
            (
                "it was made while user namespaces were off; release it, and "
                "prepare it anew",
            ),
        )


def host_reasons(
    needs: Requirements, volumes: Sequence[Volume], in_use: Sequence[str] = ()
) -> Iterator[str]:
    """Yield why an instance would have to run in the host's user namespace.

    Arguments are as for :func:`decide`.
    """
    if needs.mode == "host":
        yield "it asks for mode host"
    for each in needs.host_namespaces:
        # libvirt enters it from the new user namespace, which may not; and
        # /sys of the host's network cannot be mounted there.
        yield f"it shares {_SHARING[each]}"
    wanted = {*needs.capabilities}
    if needs.mode == "private":
        # To have it, not that it counts.
        wanted -= DROPPED_PRIVATE
    for each in sorted(wanted):
        if each in HOST_CAPABILITIES:
            yield (
                f"CAP_{each.upper()} counts in the host's user namespace only"
            )
    for volume in volumes:
        if volume.owners == "host":
            yield f"the volume {volume.source} keeps the host's owners"
    for path in in_use:
        yield f"the device {path} has what the host itself has mounted"
