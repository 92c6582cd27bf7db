# SPDX-License-Identifier: Apache-2.0
"""Messages between the processes of a run."""

import dataclasses
import json
from typing import TypeVar

from private_libvirtd.cgroups import Cgroup

AnyPlan = TypeVar("AnyPlan", bound="Plan")


class PrivateLibvirtdError(Exception):
    """The run cannot go on.

    :param reason: why, for the user.
    :param status: the exit status to give.
    """

    def __init__(self, reason: str, status: int = 125) -> None:
        super().__init__(reason, status)
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return self.reason


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All that the inside needs to know.

    :param lifeline: the descriptor of a pipe that ends when the outside does,
        and that brings the signals for the command, one byte each.
    """

    lifeline: int
    cgroups: list[Cgroup]
    command: list[str]

    def dumps(self) -> str:
        """Write the plan as text, for a command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def loads(cls: type[AnyPlan], text: str) -> AnyPlan:
        """Read what :meth:`dumps` wrote."""
        values = json.loads(text)
        cgroups = [Cgroup(**group) for group in values.pop("cgroups")]
        return cls(cgroups=cgroups, **values)
