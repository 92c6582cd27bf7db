# SPDX-License-Identifier: Apache-2.0
"""Errors about one instance; they are imported from the package."""

from __future__ import annotations

from collections.abc import Sequence

from lxc_userns.commands import command
from lxc_userns.exceptions.base import LxcUsernsError


class InstanceError(LxcUsernsError):
    """Something about one instance.

    :param name: the instance's name.
    :param reason: what is wrong and what to do.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class UnpreparedError(InstanceError):
    """Work that takes as long as a tree is large is not done yet.

    :param name: the instance's name.
    :param what: what is not done.
    """

    def __init__(self, name: str, what: str) -> None:
        remedy = command("domain", "prepare", name)
        super().__init__(name, f"{what} yet; run: {remedy}")
        self.args = (name, what)
        self.what = what


class NoSuchContainerError(InstanceError):
    """No container has this name, or none was prepared by it."""

    def __init__(self, name: str, reason: str = "no such container") -> None:
        super().__init__(name, reason)


class NotRunningError(InstanceError):
    """A container does not run, or not any more."""

    def __init__(self, name: str, reason: str = "is not running") -> None:
        super().__init__(name, reason)


class RunningError(InstanceError):
    """An instance runs, so that it cannot be changed.

    :param name: the instance's name.
    :param verb: what can be called once its domain is stopped.
    """

    def __init__(self, name: str, verb: str) -> None:
        super().__init__(
            name, f"is running; stop its domain, then call {verb}"
        )
        self.args = (name, verb)
        self.verb = verb


class AlreadyRunningError(InstanceError):
    """A container runs that was to be started."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "is running already")
        self.args = (name,)


class CommandFailedError(InstanceError):
    """A command in a container could not be started.

    :param name: the container's name.
    :param reason: what is wrong.
    :param code: 126 if the program cannot be executed, 127 if there is none
        of this name, 125 if it is anything else.
    """

    def __init__(self, name: str, reason: str, code: int) -> None:
        super().__init__(name, reason)
        self.args = (name, reason, code)
        self.code = code


class InspectionError(InstanceError):
    """A running container could not be looked at, and runs on.

    Whether it is as promised is not known. Verify it again.

    :param name: the container's name.
    :param cause: what kept it from being looked at.
    """

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(
            name,
            f"cannot be looked at: {cause}; it runs on, and was not "
            "verified; verify it again",
        )
        self.args = (name, cause)
        self.cause = cause


class ContainerExistsError(InstanceError):
    """A container of this name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            name, "the name is taken; destroy that container or take another"
        )
        self.args = (name,)


class PolicyError(InstanceError):
    """An instance may not run in the only mode in which it could.

    :param name: the instance's name.
    :param demand: who asks for a user namespace of its own.
    :param reasons: why it cannot have one, all of them.
    """

    def __init__(self, name: str, demand: str, reasons: Sequence[str]) -> None:
        super().__init__(
            name,
            f"cannot run in a user namespace of its own, and {demand}: "
            f"{'; '.join(reasons)}",
        )
        self.args = (name, demand, tuple(reasons))
        self.demand = demand
        self.reasons = tuple(reasons)


class DomainConflictError(InstanceError):
    """Domain XML contradicts what an instance was promised.

    :param name: the instance's name.
    :param conflicts: each with the element, the reason and the remedy.
    """

    def __init__(self, name: str, conflicts: Sequence[str]) -> None:
        super().__init__(
            name,
            f"domain XML contradicts the promise: {'; '.join(conflicts)}",
        )
        self.args = (name, tuple(conflicts))
        self.conflicts = tuple(conflicts)


class LeaseError(InstanceError):
    """An instance cannot have, or keep, the IDs that it asks for."""


class PoolExhaustedError(LeaseError):
    """The pool has no room for another lease."""


class IsolationError(InstanceError):
    """A running container is not isolated as was promised."""
