# SPDX-License-Identifier: Apache-2.0
"""Guest: a domain as libvirt sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lxc_userns.linux.process import Process

# By the numbers of virDomainState: a domain that waits for a resource runs.
_STATES = (
    "unknown", "running", "running", "paused", "stopping", "stopped",
    "crashed", "suspended",
)  # fmt: skip
#: VIR_DOMAIN_SHUTOFF, and VIR_DOMAIN_SHUTOFF_DESTROYED.
_DESTROYED = (5, 2)


@dataclass(frozen=True, slots=True)
class Guest:
    """A domain as libvirt sees it.

    :param name: its name.
    :param uuid: its UUID.
    :param state: ``running``, ``stopped``, ``paused`` and so on.
    :param controller: process ID of its ``libvirt_lxc``, None if not active.
    :param is_destroyed: whether it is not for somebody destroyed it; libvirt
        forgets that when it is restarted.
    """

    name: str
    uuid: str
    state: str
    controller: int | None
    is_destroyed: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it has processes, running or paused."""
        return self.controller is not None

    @property
    def is_lost(self) -> bool:
        """Whether it is active, and libvirt's process for it is gone."""
        if self.controller is None:
            return False
        try:
            with Process(self.controller):
                return False
        except ProcessLookupError:
            return True


def describe(domain: Any) -> Guest:
    """Return a domain of libvirt's binding, as it is now."""
    state, reason = domain.state()
    # The ID of an LXC domain is the process ID of its controller.
    number = domain.ID()
    return Guest(
        domain.name(),
        domain.UUIDString(),
        _STATES[state] if state < len(_STATES) else _STATES[0],
        number if number > 0 else None,
        (state, reason) == _DESTROYED,
    )
