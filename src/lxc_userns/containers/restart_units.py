# SPDX-License-Identifier: Apache-2.0
"""Units of systemd that start containers again.

A unit starts a container, if it does not run, waits for its end, and ends as
it did (``lxc-userns container wait``). systemd sees to the rest, as for any
other service: see :manpage:`systemd.service(5)`. That its unit is enabled is
all that is kept of a container's policy.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from lxc_userns.exceptions import ConfigError, InstanceError
from lxc_userns.linux import programs
from lxc_userns.spec.restart_policy import RestartPolicy

#: Seconds that systemd may take.
_LONGEST = 90.0
_ERRORS = (OSError, subprocess.TimeoutExpired)


@dataclass(frozen=True, slots=True)
class RestartUnits:
    """Units of this host's systemd.

    :param wanted: directory of the units that are enabled.
    :param booted: directory that is there if systemd is, see sd_booted(3).
    :param run: runs a program, as :func:`lxc_userns.linux.programs.run`.
    """

    wanted: str = "/etc/systemd/system/multi-user.target.wants"
    booted: str = "/run/systemd/system"
    run: Callable[..., None] = programs.run

    def check(self, policy: RestartPolicy) -> None:
        """Refuse a policy that cannot be followed on this host.

        :raises ConfigError: if there is no systemd, or not the unit for it.
        """
        if policy is RestartPolicy.NO:
            return
        reason = "needs systemd, which is not here"
        if os.path.isdir(self.booted):
            try:
                self._systemctl("cat", _unit(policy))
                return
            except _ERRORS as err:
                reason = f"needs a unit that systemd does not know: {err}"
        raise ConfigError("--restart", policy, reason)

    def find_policy(self, name: str) -> RestartPolicy:
        """Return the policy of a container."""
        for policy in RestartPolicy:
            if os.path.lexists(f"{self.wanted}/{_unit(policy, name)}"):
                return policy
        return RestartPolicy.NO

    def set_policy(self, name: str, policy: RestartPolicy) -> None:
        """Give a container a policy instead of the one that it has.

        :raises InstanceError: if systemd refuses it.
        """
        before = self.find_policy(name)
        if before not in (RestartPolicy.NO, policy):
            self._change(name, "disable", _unit(before, name))
        if policy not in (RestartPolicy.NO, before):
            self._change(name, "enable", _unit(policy, name))

    def follow(self, name: str) -> None:
        """Start the unit of a container that was started, if it has one.

        :raises InstanceError: if systemd refuses it.
        """
        policy = self.find_policy(name)
        if policy is not RestartPolicy.NO:
            # Not waited for: it waits for the container's lock.
            self._change(name, "start", "--no-block", _unit(policy, name))

    def _change(self, name: str, *arguments: str) -> None:
        try:
            self._systemctl(*arguments)
        except _ERRORS as err:
            verb = arguments[0]
            raise InstanceError(
                name, f"its restart policy: systemctl {verb}: {err}"
            ) from err

    def _systemctl(self, *arguments: str) -> None:
        self.run(["systemctl", "--quiet", *arguments], timeout=_LONGEST)


def _unit(policy: RestartPolicy, name: str = "") -> str:
    return f"lxc-userns-{policy}@{name}.service"
