# SPDX-License-Identifier: Apache-2.0
"""Release of what was prepared for an instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns.exceptions import RunningError

if TYPE_CHECKING:
    from lxc_userns.instances.instances import Instances
    from lxc_userns.leases.allocator import LeaseAllocator
    from lxc_userns.resources import ControlGroups
    from lxc_userns.traces.store import Traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Releaser:
    """Releaser of instances; the caller has locked the instance.

    :param instances: what there is on the host.
    :param allocator: takes leases back.
    :param traces: traces of the containers.
    :param groups: control groups of the containers.
    """

    instances: Instances
    allocator: LeaseAllocator
    traces: Traces
    groups: ControlGroups

    def unmount(
        self, name: str, uuid: str | None = None, *, verb: str = "unmount"
    ) -> None:
        """Unmount the views of a stopped instance, and keep its record.

        :param uuid: of which it has to be, None of any.
        :param verb: what was called, for the error.
        :raises RunningError: if it is running.
        :raises ConfigError: if its views are below another run path.
        :raises InstanceError: if it is another.
        """
        record = self.instances.store.load(name)
        if uuid is not None:
            lease = None if record else self.allocator.find(name)
            leased_to = None if lease is None else lease.uuid
            self.instances.check_same(
                name, record, uuid, verb, leased_to=leased_to
            )
        if record is not None:
            if self.instances.is_active(record):
                raise RunningError(name, verb)
            self.instances.files.check_view(record)
        self.instances.files.unmount(name)
        self.groups.remove(name)

    def release(
        self,
        name: str,
        give_back: Callable[[str], bool] | None = None,
        uuid: str | None = None,
    ) -> bool:
        """Release an instance, whatever was prepared of it.

        :param give_back: does with its lease what is to be done, and says
            whether it has none now; None releases it.
        :param uuid: as for :meth:`unmount`.
        :returns: whether it has no lease now.
        :raises RunningError: if it is running.
        :raises InstanceError: if it is another.
        """
        record = self.instances.store.load(name)
        self.unmount(name, uuid, verb="release")
        self.instances.files.remove(name)
        self.traces.remove(name)
        self.instances.store.remove(name)
        # Last of all: no other instance gets IDs of a lease.
        if give_back is not None:
            return give_back(name)
        return self.allocator.release(name, record)
