# SPDX-License-Identifier: Apache-2.0
"""From what is asked for and what is configured to what is promised."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxc_userns import own_paths
from lxc_userns.exceptions import (
    InstanceError,
    PolicyError,
)
from lxc_userns.instances.record import InstanceRecord, name_taken
from lxc_userns.linux import block_devices
from lxc_userns.spec import policy
from lxc_userns.spec.requirements import (
    DROPPED_PRIVATE,
    RAISES_LIMITS,
    Device,
    Requirements,
)
from lxc_userns.spec.rootfs_kind import RootfsKind, parse_kind
from lxc_userns.spec.strategy import Strategy, find_choice

if TYPE_CHECKING:
    from lxc_userns.config.settings import Settings
    from lxc_userns.host_paths import HostPaths
    from lxc_userns.idmap import IdMaps
    from lxc_userns.instances.filesystems import Filesystems
    from lxc_userns.leases.allocator import LeaseAllocator
    from lxc_userns.spec.policy import Decision
    from lxc_userns.spec.request import InstanceRequest
    from lxc_userns.spec.volume import Volume

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Planner:
    """Planner of what the instances of a host are promised.

    :param settings: values of our options.
    :param files: where the instances have their filesystems.
    :param allocator: who leases ranges of IDs.
    :param paths: paths of the host that they may be given.
    """

    settings: Settings
    files: Filesystems
    allocator: LeaseAllocator
    paths: HostPaths

    def plan(self, request: InstanceRequest) -> InstanceRecord:
        """Return the record of an instance, without its ID maps.

        :raises ConfigError: if the configuration cannot be used.
        :raises PolicyError: if the policy forbids it.
        :raises RootfsError: if its root filesystem or a volume is not there.
        :raises NeedsError: if a device is not there, or is none.
        :raises InstanceError: if the kind of its root filesystem is none.
        """
        outline = self.plan_ids_only(request)
        path = self.paths.resolve(request.rootfs)
        kind = request.rootfs_kind or self._find_kind(path)
        if kind == "archive":
            self.files.check_archive(path)
        archive = path if kind == "archive" else None
        for volume in request.volumes:
            self._check_volume(volume)
        return replace(
            outline,
            rootfs_kind=kind,
            rootfs=self.files.unpacked(request.name) if archive else path,
            archive=archive,
        )

    def plan_ids_only(self, request: InstanceRequest) -> InstanceRecord:
        """Plan without what has to be there.

        :raises ConfigError: if the configuration cannot be used.
        :raises PolicyError: if the policy forbids it.
        :raises NeedsError: if a device is not there, or is none.
        :raises InstanceError: if the kind of its root filesystem is none.
        """
        _check_kind(request)
        self._check_config(maps_given=request.id_maps is not None)
        what = f"{request.name}: device"
        devices = tuple(
            self.paths.find_device(path, what)
            for path in request.needs.devices
        )
        decision = self._decide(request, devices)
        strategy = find_choice(
            request.strategy or self.settings.rootfs_strategy
        )
        if decision.mode == "host":
            strategy = Strategy.BIND
        return InstanceRecord(
            name=request.name,
            uuid=request.uuid,
            rootfs=request.rootfs,
            id_maps=None,
            strategy=strategy,
            view=self.files.view(request.name),
            volumes=request.volumes,
            needs=request.needs,
            devices=devices,
            mode_reasons=decision.reasons,
            rootfs_kind=request.rootfs_kind,
            max_processes=self._max_processes(request),
            dropped=_dropped(request.needs),
            security_model=request.security_model,
            hostname=request.hostname,
        )

    def assign_id_maps(
        self,
        request: InstanceRequest,
        draft: InstanceRecord,
        known: InstanceRecord | None,
        *,
        keep: bool = True,
    ) -> InstanceRecord:
        """Add its ID maps, if it is to have any.

        :param known: what it was promised before.
        :param keep: whether it is to keep a lease that it gets for that.
        :raises InstanceError: if another instance has its name.
        """
        self._check_same(draft, known)
        if not draft.strategy.traits.needs_id_maps:
            return draft
        return replace(draft, id_maps=self._id_maps(request, known, keep))

    def preview(
        self, request: InstanceRequest, known: InstanceRecord | None
    ) -> InstanceRecord:
        """Return what a preparation would promise, and keep nothing of it.

        The strategy may still be ``auto``: only trying it on the root
        filesystem tells which one that is. The ID maps of an instance that
        has no lease yet are another's if that one is prepared first.

        :param known: what it was promised before.
        """
        draft = self.plan(request)
        return self.assign_id_maps(request, draft, known, keep=False)

    def check_again(self, record: InstanceRecord) -> None:
        """Check that an instance may still start as it was promised.

        :raises PolicyError: if not in the mode that it has.
        :raises ConfigError: if the configuration cannot be used, or others
            hold IDs of its maps, of which it has no lease.
        :raises RootfsError: if it has files where none may be.
        """
        for path in _host_paths(record):
            self.paths.check_below_roots(path)
        maps = record.id_maps
        self._check_config(maps_given=maps is not None)
        if maps is not None:
            lease = self.allocator.find(record.name)
            if lease is None or not lease.is_for(maps):
                self._check_held(record.name, maps)
        else:
            policy.check_ceiling(
                record.name,
                self.settings.userns_policy,
                record.needs,
                record.volumes,
                enabled=self._is_enabled,
            )

    def _find_kind(self, path: str) -> RootfsKind:
        if os.path.isdir(path):
            return "directory"
        return "archive" if self.files.is_archive(path) else "image"

    @property
    def _is_enabled(self) -> bool:
        return self.settings.has_pool or self.settings.id_maps is not None

    def _decide(
        self, request: InstanceRequest, devices: Sequence[Device]
    ) -> Decision:
        try:
            return policy.decide(
                request.name,
                self.settings.userns_policy,
                request.needs,
                request.volumes,
                enabled=request.id_maps is not None or self._is_enabled,
                in_use=[each.path for each in devices if _in_use(each)],
            )
        except PolicyError as err:
            _LOG.info("refused: %s", err)
            raise

    def _id_maps(
        self,
        request: InstanceRequest,
        known: InstanceRecord | None,
        keep: bool,
    ) -> IdMaps | None:
        if request.id_maps is None and self.settings.has_pool:
            lease = self.allocator.acquire(
                request.name,
                request.uuid,
                request.range_size,
                keep=keep,
                known=known,
            )
            return lease.id_maps
        if request.range_size is not None:
            raise InstanceError(
                request.name,
                f"asks for a lease of {request.range_size} IDs, and there is "
                "no pool; set [lxc_userns] subid_owner, or leave out "
                "range_size, then call prepare",
            )
        if request.id_maps is None:
            return self.settings.load_id_maps()
        self._check_held(request.name, request.id_maps)
        return request.id_maps

    def _check_held(self, name: str, id_maps: IdMaps) -> None:
        names = (f"uid_maps of {name}", f"gid_maps of {name}")
        self.settings.check_held(id_maps, names)

    def _check_same(
        self, record: InstanceRecord, known: InstanceRecord | None
    ) -> None:
        if known is not None and known.uuid != record.uuid:
            state = self.allocator.instances.state_of(known)
            reason = name_taken(state, known.uuid, known.name)
            raise InstanceError(record.name, reason)

    def _max_processes(self, request: InstanceRequest) -> int:
        if request.max_processes is not None:
            return request.max_processes
        return self.settings.max_processes

    def _check_volume(self, volume: Volume) -> None:
        self.paths.check_below_roots(volume.source)
        with self.files.given.opened_volume(volume):
            self.paths.check_not_ours(volume.source, "give another directory")

    def _check_config(self, *, maps_given: bool = False) -> None:
        problems = self.settings.find_problems(maps_given=maps_given)
        for problem in problems:
            raise problem
        for name, check in own_paths.CHECKS.items():
            check(getattr(self.settings, name))


def _check_kind(request: InstanceRequest) -> None:
    if request.rootfs_kind is None:
        return
    try:
        parse_kind(request.rootfs_kind)
    except ValueError as err:
        raise InstanceError(request.name, str(err)) from None


def _dropped(needs: Requirements) -> tuple[str, ...]:
    """Return the capabilities to drop in mode ``private``."""
    useless = DROPPED_PRIVATE - {*needs.capabilities}
    return tuple(sorted({RAISES_LIMITS, *useless}))


def _host_paths(record: InstanceRecord) -> Iterator[str]:
    """Yield the files of the host that an instance was promised."""
    yield record.archive or record.rootfs
    yield from (each.source for each in record.volumes)
    yield from (each.path for each in record.devices)


def _in_use(device: Device) -> bool:
    if device.kind != "block":
        return False
    return block_devices.in_use(os.stat(device.path).st_rdev)
