# SPDX-License-Identifier: Apache-2.0
"""Requirements of an instance beside files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, get_args

from lxc_userns.arguments import as_text, shown
from lxc_userns.exceptions import NeedsError

#: Whether an instance has a user namespace of its own, or the host's.
Mode = Literal["private", "host"]
#: Namespaces of the host that a container can be in.
Shared = Literal["network", "ipc", "uts"]
#: Names in a record of what is called otherwise here.
_RECORDED: Final = {"host_namespaces": "shared"}
#: Security modules that libvirt has a driver for. Its driver ``dac`` does
#: nothing for containers.
SECURITY_MODELS: Final = ("apparmor", "selinux")

_NAMES: Final = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid
    setpcap linux_immutable net_bind_service net_broadcast net_admin net_raw
    ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct
    sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod
    lease audit_write audit_control setfcap mac_override mac_admin syslog
    wake_alarm block_suspend
"""
#: libvirt's names, which are the kernel's without ``CAP_``, in the order of
#: the kernel's numbers from 0; it knows none that is newer.
CAPABILITIES: Final = tuple(_NAMES.split())
#: Those that libvirt drops unless the domain says otherwise
#: (lxcContainerDropCapabilities).
DROPPED: Final = frozenset(
    {"audit_control", "mac_admin", "mknod", "sys_module", "sys_time"}
)
#: What a container's root needs to raise its limits of user namespaces. In a
#: user namespace it is good for nothing else.
RAISES_LIMITS: Final = "sys_resource"
#: Those that are dropped in mode ``private`` besides. What they are for
#: belongs to no namespace, and services that look for them first, as the
#: mounts of debugfs and tracefs in systemd, do without; those that a program
#: can have as a file capability, and then does not run without, are not here.
DROPPED_PRIVATE: Final = frozenset(
    {
        "block_suspend", "mac_override", "sys_pacct", "sys_rawio", "syslog",
        "wake_alarm",
    }
)  # fmt: skip

#: Processes and threads of one container unless something else is said; and
#: the most that any kernel can have (PID_MAX_LIMIT).
DEFAULT_PROCESSES: Final = 4096
MOST_PROCESSES: Final = 1 << 22

# libvirt makes the node under the same name below the container's /dev.
_DEVICE: Final = re.compile(r"/dev(/[\w.:@+=,-]+)+", re.ASCII)


# What libvirt makes or mounts itself.
_OF_ALL: Final = re.compile(
    r"/dev/(null|zero|full|u?random|tty\d*|console|ptmx|pts(/.*)?"
    r"|std(in|out|err)|fd(/.*)?)"
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the host.

    :param path: absolute path below ``/dev``; the container has it there too.
    :param kind: ``char`` or ``block``.
    :raises NeedsError: for any other value.
    """

    path: str
    kind: Literal["char", "block"]

    def __post_init__(self) -> None:
        check_device_path(self.path)
        if self.kind not in ("char", "block"):
            raise NeedsError("device", self.kind, "is neither char nor block")


@dataclass(frozen=True, slots=True)
class Requirements:
    """Requirements of an instance that not every container is to have.

    :param mode: ``private`` or ``host``; None leaves it to the policy.
    :param host_namespaces: namespaces that it shares with the host:
        ``network``, ``ipc`` (System V IPC and POSIX message queues), ``uts``
        (host name).
    :param capabilities: capabilities (:manpage:`capabilities(7)`) that have
        to count for what it does, by libvirt's names: in small letters and
        without ``CAP_``.
    :param devices: paths of devices of the host that it may use, below
        ``/dev`` and without links.
    :raises NeedsError: for any other value.
    """

    mode: Mode | None = None
    host_namespaces: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("host_namespaces", "capabilities", "devices"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise NeedsError(
                    name, as_text(given), "a sequence is expected"
                )
            texts = [*given]
            if not all(isinstance(text, str) for text in texts):
                raise NeedsError(name, shown(texts), "texts are expected")
            # In one order, so that the same needs are equal.
            object.__setattr__(self, name, tuple(sorted({*texts})))
        if self.mode is not None:
            _check_choice("mode", self.mode, get_args(Mode))
        for each in self.host_namespaces:
            _check_choice("namespace to share", each, get_args(Shared))
        for each in self.capabilities:
            _check_choice("capability", each, sorted(CAPABILITIES))
        for each in self.devices:
            check_device_path(each)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values, by their names in a record."""
        return {
            _RECORDED.get(name, name): (
                [*value] if isinstance(value, tuple) else value
            )
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: object) -> Requirements:
        """Read what :meth:`to_dict` gave.

        :raises NeedsError: for anything else.
        """
        names = {
            _RECORDED.get(field.name, field.name): field.name
            for field in fields(cls)
        }
        if not isinstance(data, dict) or data.keys() != names.keys():
            reason = f"are not {', '.join(sorted(names))}"
            raise NeedsError("needs", repr(data), reason)
        return cls(**{names[key]: value for key, value in data.items()})


def Needs(  # noqa: N802
    mode: Mode | None = None,
    shared: tuple[str, ...] = (),
    capabilities: tuple[str, ...] = (),
    devices: tuple[str, ...] = (),
) -> Requirements:
    """Return requirements, by the name of before.

    .. deprecated:: 0.1.0
       Take :class:`Requirements`, whose ``host_namespaces`` are ``shared``.
    """
    warnings.warn(
        "lxc_userns.Needs is deprecated; use Requirements, whose "
        "host_namespaces are shared",
        DeprecationWarning,
        stacklevel=2,
    )
    return Requirements(mode, shared, capabilities, devices)


def check_device_path(path: str) -> None:
    """Refuse what libvirt cannot make a device node of.

    :raises NeedsError: if it is refused.
    """
    if not _DEVICE.fullmatch(path) or {".", ".."} & {*path.split("/")}:
        raise NeedsError("device", path, "is not a path below /dev")
    if _OF_ALL.fullmatch(path):
        raise NeedsError("device", path, "every container has one of its own")


def _check_choice(what: str, value: Any, known: Any) -> None:
    if not isinstance(value, str) or value not in known:
        reason = f"is not one of {', '.join(known)}"
        raise NeedsError(what, as_text(value), reason)
