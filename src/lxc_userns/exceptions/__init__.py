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

from collections.abc import Sequence

from lxc_userns import lazy
from lxc_userns.exceptions.base import LxcUsernsError as LxcUsernsError
from lxc_userns.exceptions.base import reason_of as reason_of
from lxc_userns.exceptions.base import translated as translated
from lxc_userns.exceptions.instance import (
    AlreadyRunningError as AlreadyRunningError,
)
from lxc_userns.exceptions.instance import (
    CommandFailedError as CommandFailedError,
)
from lxc_userns.exceptions.instance import (
    ContainerExistsError as ContainerExistsError,
)
from lxc_userns.exceptions.instance import (
    DomainConflictError as DomainConflictError,
)
from lxc_userns.exceptions.instance import InspectionError as InspectionError
from lxc_userns.exceptions.instance import InstanceError as InstanceError
from lxc_userns.exceptions.instance import IsolationError as IsolationError
from lxc_userns.exceptions.instance import LeaseError as LeaseError
from lxc_userns.exceptions.instance import (
    NoSuchContainerError as NoSuchContainerError,
)
from lxc_userns.exceptions.instance import NotRunningError as NotRunningError
from lxc_userns.exceptions.instance import PolicyError as PolicyError
from lxc_userns.exceptions.instance import (
    PoolExhaustedError as PoolExhaustedError,
)
from lxc_userns.exceptions.instance import RunningError as RunningError
from lxc_userns.exceptions.instance import UnpreparedError as UnpreparedError
from lxc_userns.text import shorten, show

# The name of before, for one release.
__getattr__ = lazy.renamed(
    __name__, ReachableError="lxc_userns.exceptions.ExposedTreeError"
)


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


class PrerequisiteError(LxcUsernsError):
    """This host, or this process, lacks what an operation needs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
