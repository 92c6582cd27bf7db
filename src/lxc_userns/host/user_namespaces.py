# SPDX-License-Identifier: Apache-2.0
"""User namespaces: whether the kernel makes them, and how many."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.linux import programs

#: Where the kernel says what its user namespaces may.
LIMIT = Path("/proc/sys/user/max_user_namespaces")
_NAMESPACES = "/proc/self/ns"
_SYSCTL = "user.max_user_namespaces"
_ENOUGH = 1024
_RAISE = f"raise sysctl {_SYSCTL} to {_ENOUGH} or more, in /etc/sysctl.d"
_LONGEST = 10.0


@dataclass(frozen=True, slots=True)
class Switch:
    """A sysctl that forbids user namespaces to unprivileged users.

    :param name: its name.
    :param whose: who has added it to the kernel.
    :param forbids: the value with which it forbids them.
    :param allows: the value with which it does not.
    """

    name: str
    whose: str
    forbids: int
    allows: int

    @property
    def path(self) -> Path:
        """Its file."""
        return Path("/proc/sys") / self.name.replace(".", "/")

    def check(self) -> Finding:
        """Return whether user namespaces can be made inside containers."""
        return evaluate_switch(
            self, int(self.path.read_text(encoding="ascii"))
        )


#: Neither stops libvirt, which is root.
SWITCHES = (
    Switch("kernel.unprivileged_userns_clone", "Debian", 0, 1),
    Switch("kernel.apparmor_restrict_unprivileged_userns", "Ubuntu", 1, 0),
)


def check_making() -> Finding:
    """Return whether the kernel makes user namespaces; one is made."""
    made = subprocess.run(
        ["unshare", "--user", "true"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=programs.ENVIRONMENT,
        text=True,
        errors="replace",
        timeout=_LONGEST,
        check=False,
    )
    said = " ".join(made.stderr.split()) or f"exit code {made.returncode}"
    # One that is not seen for want of /proc may yet be there.
    known = os.path.exists(f"{_NAMESPACES}/user") or not os.path.exists(
        _NAMESPACES
    )
    return evaluate_making(known, said if made.returncode else None)


def evaluate_making(known: bool, refused: str | None) -> Finding:
    """Return whether a kernel makes user namespaces.

    :param known: whether it knows what they are.
    :param refused: what was said when one was to be made, None if it was.
    """
    if not known:
        return failed(
            "this kernel is built without user namespaces",
            "boot one that has CONFIG_USER_NS",
        )
    if refused is None:
        return passed("the kernel makes them")
    message = f"the kernel makes none: {refused}"
    if "No space left" in refused:  # ENOSPC, and EUSERS before Linux 4.9.
        return failed(message, f"{_RAISE}, or have fewer of them")
    return failed(
        message,
        "run this as root, and not in a container or under a filter of "
        "system calls that forbids it",
    )


def check_number() -> Finding:
    """Return whether there may be enough of them."""
    return evaluate_number(int(LIMIT.read_text(encoding="ascii")))


def evaluate_number(limit: int) -> Finding:
    """Return whether there may be enough of them.

    :param limit: how many the host's root may make.
    """
    message = f"sysctl {_SYSCTL} is {limit}"
    if limit == 0:
        return failed(f"{message}: the kernel makes none", _RAISE)
    if limit < _ENOUGH:
        return warned(
            f"{message}: each container needs one or two, and those made "
            "inside it come in addition",
            _RAISE,
        )
    return passed(message)


def evaluate_switch(switch: Switch, value: int) -> Finding:
    """Return whether user namespaces can be made inside containers.

    :param switch: one of :data:`SWITCHES`.
    :param value: what it is set to.
    """
    message = f"sysctl {switch.name} ({switch.whose}) is {value}"
    if value != switch.forbids:
        return passed(message)
    return warned(
        f"{message}: no obstacle to libvirt's containers, for libvirt is "
        "root; it counts only for user namespaces that unprivileged users "
        "make, and for those nested in containers",
        f"nothing, unless these are wanted: then set it to {switch.allows}",
    )
