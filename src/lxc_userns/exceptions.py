# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises.

::

    LxcUsernsError
    ├── ArgumentError          an argument of a call (a TypeError, ValueError)
    ├── ConfigError            an option of the configuration
    ├── IdMapError             an ID map or one of its entries (a ValueError)
    ├── VolumeError            a volume as it was asked for (a ValueError)
    ├── NeedsError             what else an instance asks for (a ValueError)
    ├── DomainXmlError         domain XML, ours or somebody else's
    ├── RootfsError            a root filesystem: path and reason
    │   ├── UnmappedIdsError   owners that no ID map entry covers
    │   ├── NotIdmappableError no idmapped mount can be made of it
    │   ├── ImageError         no disk image that may be mounted
    │   ├── ExposedTreeError   users of the host could get at an idmapped tree
    │   └── ReplacedError      it is not the one that an instance was given
    ├── LibvirtError           libvirt refused an operation
    │   └── LibvirtUnreachableError
    ├── InstanceError          an instance: name and reason
    │   ├── NoSuchContainerError
    │   ├── NotRunningError
    │   ├── RunningError       it runs, and cannot be changed
    │   ├── AlreadyRunningError
    │   ├── CommandFailedError a command in one could not be started
    │   ├── UnpreparedError    a walk over its tree is not done yet
    │   ├── InspectionError    what runs could not be looked at
    │   ├── ContainerExistsError
    │   ├── PolicyError        it may not run in the mode in which it could
    │   ├── LeaseError         its range of IDs: none to be had, or another's
    │   │   └── PoolExhaustedError
    │   ├── DomainConflictError its domain XML is not what was promised
    │   └── IsolationError     what runs is not what was promised
    ├── LockTimeoutError       another operation holds a lock
    └── PrerequisiteError      this host lacks what is needed

The arguments of each constructor are its ``args``, so that an error survives
pickling and ``type(error)(*error.args)``, which is how oslo.privsep carries
it across its boundary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lxc_userns.text import shorten, show


class LxcUsernsError(Exception):
    """Base of all errors of this package."""


class ArgumentError(LxcUsernsError, TypeError, ValueError):
    """An argument of the API is of another type, or no value for it.

    :param name: function and argument, as ``add_id_maps: id_maps``.
    :param value: the offending value, as Python shows it.
    :param reason: what is wrong and what to do.
    """

    def __init__(self, name: str, value: str, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name = name
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} {self.value}: {self.reason}"


class ConfigError(LxcUsernsError):
    """An option has a value that cannot be used.

    :param option: the option with its section, as ``[libvirt] uid_maps``.
    :param value: the offending text.
    :param reason: what is wrong and what to do.
    """

    def __init__(self, option: str, value: str, reason: str) -> None:
        super().__init__(option, value, reason)
        self.option = option
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        shown = f" = {show(self.value)}" if self.value else ""
        return f"{self.option}{shown}: {self.reason}"


class IdMapError(LxcUsernsError, ValueError):
    """An ID map, or an entry of one, breaks a rule.

    :param rule: short stable name of the rule, as ``host-overlap``.
    :param value: the offending text.
    :param reason: what is wrong.
    """

    def __init__(self, rule: str, value: str, reason: str) -> None:
        super().__init__(rule, value, reason)
        self.rule = rule
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"ID map {shorten(self.value)!r}: {self.reason}"


class VolumeError(LxcUsernsError, ValueError):
    """A volume cannot be what was asked for.

    :param value: the offending text.
    :param reason: what is wrong.
    """

    def __init__(self, value: str, reason: str) -> None:
        super().__init__(value, reason)
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"volume {shorten(self.value)!r}: {self.reason}"


class NeedsError(LxcUsernsError, ValueError):
    """An instance asks for something that there is not.

    :param what: which of its needs.
    :param value: the offending text.
    :param reason: what is wrong.
    """

    def __init__(self, what: str, value: str, reason: str) -> None:
        super().__init__(what, value, reason)
        self.what = what
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} {shorten(self.value)!r}: {self.reason}"


class DomainXmlError(LxcUsernsError):
    """Domain XML cannot be read, or would not give what was asked for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RootfsError(LxcUsernsError):
    """A root filesystem, or something in it, cannot be worked on.

    :param path: the path as the caller knows it.
    :param reason: what is wrong and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class UnmappedIdsError(RootfsError):
    """Owners on disk are covered by no entry, and the policy is ``error``.

    :param path: the root filesystem.
    :param uids: unmapped user IDs found, ascending.
    :param gids: unmapped group IDs found, ascending.
    """

    def __init__(
        self, path: str, uids: Sequence[int], gids: Sequence[int]
    ) -> None:
        kinds = (("user", uids), ("group", gids))
        listed = "; ".join(
            f"{kind} IDs {', '.join(map(str, ids))}"
            for kind, ids in kinds
            if ids
        )
        super().__init__(
            path, f"owners that the ID maps do not cover: {listed}"
        )
        self.args = (path, uids, gids)
        self.uids = tuple(uids)
        self.gids = tuple(gids)


class ImageError(RootfsError):
    """A disk image has nothing that may be mounted, on whatever host."""


class NotIdmappableError(RootfsError):
    """The kernel or the filesystem allows no idmapped mount of it."""


class ExposedTreeError(RootfsError):
    """Users of the host could reach a tree that is to be idmapped."""


class ReplacedError(RootfsError):
    """Another file or directory is where the one promised was."""


class LibvirtError(LxcUsernsError):
    """libvirt refused an operation, or could not be asked for it.

    :param operation: what was tried, as ``define web1``.
    :param reason: libvirt's own message, one line.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return f"libvirt: {self.operation}: {self.reason}"


class LibvirtUnreachableError(LibvirtError):
    """There is no libvirtd, or the connection to it broke."""


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


class LockTimeoutError(LxcUsernsError):
    """Others hold a lock for longer than was to be waited.

    :param name: name of the lock.
    :param timeout: seconds that were waited.
    """

    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(name, timeout)
        self.name = name
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"lock {self.name}: another operation has held it for "
            f"{self.timeout:.3g} s; try again when that is done"
        )


class UnpreparedError(InstanceError):
    """Work that takes as long as a tree is large is not done yet.

    :param name: the instance's name.
    :param what: what is not done.
    """

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            name, f"{what} yet; run: lxc-userns domain prepare {name}"
        )
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


class PrerequisiteError(LxcUsernsError):
    """This host, or this process, lacks what an operation needs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(err: OSError) -> str:
    """Return what a system call's error says, without number and path."""
    return err.strerror or str(err)


@contextmanager
def translated(kind: type[LxcUsernsError], *about: str) -> Iterator[None]:
    """Raise a system call's error as one of this package.

    :param kind: the class, whose last argument is the reason.
    :param about: its other arguments.
    :raises LxcUsernsError: in place of any OSError.
    """
    try:
        yield
    except OSError as err:
        raise kind(*about, reason_of(err)) from err


def __getattr__(name: str) -> object:
    # The name of before, for one release.
    if name != "ReachableError":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.ReachableError is deprecated; use ExposedTreeError",
        DeprecationWarning,
        stacklevel=2,
    )
    return ExposedTreeError
