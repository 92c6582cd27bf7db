# SPDX-License-Identifier: Apache-2.0
"""Spawn and clean-up of one instance: the stages in their order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from oslo_config import cfg

from lxc_userns import conf as options
from lxc_userns import limits, verification
from lxc_userns.claims import Claim, overlap
from lxc_userns.config_check import option
from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    IsolationError,
    NoSuchContainerError,
    RootfsError,
)
from lxc_userns.filesystems import Filesystems
from lxc_userns.guest import Guest, Guests
from lxc_userns.idmap import CONTAINER_IDS, IdMaps
from lxc_userns.instances import InstanceRecord, InstanceStore
from lxc_userns.inventory import Inventory
from lxc_userns.leases import Lease, LeaseStore
from lxc_userns.lessor import Lessor
from lxc_userns.preparation import Complete, Preparation
from lxc_userns.request import InstanceRequest, PreparedInstance
from lxc_userns.rootfs import strategies, unpacking, volumes
from lxc_userns.rootfs.backing import translated
from lxc_userns.rootfs.strategies import Progress, ShiftOptions
from lxc_userns.volume import Volume


class UserNamespaceManager:
    """Prepares, verifies and releases the instances of a host.

    :param conf: configuration with our options registered; read at each use.
    :param guests: how to reach libvirt.
    """

    def __init__(
        self, conf: cfg.ConfigOpts, guests: Guests | None = None
    ) -> None:
        self._conf = conf
        self.guests = guests or Guests()

    @property
    def store(self) -> InstanceStore:
        """The records of this host's instances."""
        return InstanceStore(self._option("state_path"))

    @property
    def files(self) -> Filesystems:
        """The filesystems of this host's instances."""
        return Filesystems(
            self._option("state_path"), self._option("run_path")
        )

    @property
    def inventory(self) -> Inventory:
        """All that is known of this host's instances."""
        return Inventory(self.store, self.files, self.guests)

    @property
    def lessor(self) -> Lessor:
        """Who leases ranges from the pool of this host."""
        try:
            pool = self._option("subid_owner"), self._option("range_size")
        except ConfigError:
            # Whoever wants a lease is told; nobody else needs to know.
            pool = "", CONTAINER_IDS
        leases = LeaseStore(self._option("state_path"))
        return Lessor(self.inventory, leases, *pool)

    def plan(self, request: InstanceRequest) -> PreparedInstance:
        """What :meth:`prepare` would give; changes nothing.

        The strategy may still be ``auto``: only trying it on the root
        filesystem tells which one that is. The ID maps of an instance that
        has no lease yet are another's if that one is prepared first.

        :raises ConfigError: if the configuration cannot be used.
        :raises InstanceError: if name or UUID cannot be used, or there is no
            lease for it.
        :raises RootfsError: if the root filesystem or a volume is not there.
        """
        draft = self._draft(request)
        known = self.store.load(request.name)
        return PreparedInstance(
            self._complete(request, draft, known, keep=False)
        )

    def prepare(
        self, request: InstanceRequest, progress: Progress | None = None
    ) -> PreparedInstance:
        """Do what an instance needs before its domain can start.

        Idempotent, also after a crash or a reboot of the host. If it fails,
        nothing new is left but the part of the root filesystem that was
        shifted by then, and a later shift or unshift goes on from there.

        :param progress: called with the number of inodes seen so far.
        :raises LxcUsernsError: if anything is in the way.
        """
        draft = self._draft(request)
        complete = partial(self._complete, request)
        return self._prepare(draft, progress, request.program, complete)

    def prepare_again(
        self, name: str, progress: Progress | None = None
    ) -> PreparedInstance:
        """Prepare an instance as it was promised, whatever is configured now.

        :param progress: as for :meth:`prepare`.
        :raises NoSuchContainerError: if it was never prepared.
        :raises LxcUsernsError: if anything is in the way.
        """
        return self._prepare(self._record(name), progress)

    def verify(
        self, instance: str | PreparedInstance
    ) -> verification.VerifiedInstance:
        """Compare a running container with what was promised.

        One that is as promised is limited in what it may use up of what all
        containers share, see :doc:`../security/index`. Repeat that when it
        may have rebooted itself.

        :param instance: its name, or what :meth:`prepare` gave.
        :raises IsolationError: if it is not as promised, or cannot be
            looked at; it is destroyed then.
        :raises InstanceError: if it is not running.
        """
        record = self._record(instance)
        if not self.inventory.is_active(record):
            raise InstanceError(record.name, "is not running")
        try:
            with self.guests.init_process(record.name) as init:
                found = verification.describe(record.name, init)
                reasons = list(verification.mismatches(record.id_maps, init))
                if record.id_maps is not None and not reasons:
                    limits.apply(init)
        except (InstanceError, OSError) as err:
            if not self.inventory.is_active(record):
                raise InstanceError(record.name, "is not running") from err
            self._destroy_unverified(record, [str(err)])
        if reasons:
            self._destroy_unverified(record, reasons)
        return found

    def detach(self, instance: str | PreparedInstance) -> None:
        """Unmount the views of a stopped instance, and keep its record.

        :raises InstanceError: if it is running.
        """
        name = _name(instance)
        with self.store.lock(name):
            self._unmount(name)

    def release(self, instance: str | PreparedInstance) -> None:
        """Undo :meth:`prepare`; safe to repeat, and after half of it.

        A directory or image that was given stays as it is: shifted, for the
        next start, if the strategy is ``chown``. What was made for the
        instance alone is removed: the upper layer of its overlay, and what
        was unpacked from an archive.

        :raises InstanceError: if the instance is running.
        :raises RootfsError: if a view is busy.
        """
        name = _name(instance)
        with self.store.lock(name):
            self.clear(name)

    def withdraw(self, name: str, before: Lease | None) -> None:
        """As :meth:`release`, but for a lease that was there before.

        :param before: what it was when nothing was prepared yet.
        """
        with self.store.lock(name):
            self.clear(name, partial(self.lessor.restore, before=before))

    def clear(
        self, name: str, give_back: Callable[[str], bool] | None = None
    ) -> bool:
        """As :meth:`release`, for who has locked the instance.

        :param give_back: does with its lease what is to be done, and says
            whether it has none now; None releases it.
        """
        record = self.store.load(name)
        self._unmount(name)
        self.files.remove(name)
        self.store.remove(name)
        # Last of all: nobody else gets IDs of a lease.
        if give_back is not None:
            return give_back(name)
        return self.lessor.release(name, record)

    @contextmanager
    def reserved(self, path: str, id_maps: IdMaps | None) -> Iterator[None]:
        """Keep a root filesystem from being taken in use, to shift it.

        :param path: the root filesystem.
        :param id_maps: what it is about to be shifted for.
        :raises RootfsError: if an instance uses it, or a tree around or
            within it, with other ID maps.
        """
        rootfs = self._resolve(path)
        claim = Claim(rootfs, "chown", id_maps)
        with translated(path), self.store.lock_trees([rootfs]):
            self.inventory.check_unused([claim], besides=None)
            if id_maps is not None:
                self.lessor.note_shift(rootfs, id_maps)
            yield

    def find_guest(self, record: InstanceRecord) -> Guest | None:
        """The domain of an instance, None if there is none."""
        return self.inventory.find_guest(record)

    def _draft(self, request: InstanceRequest) -> InstanceRecord:
        """What an instance is to be promised, but for its ID maps."""
        for problem in options.find_problems(self._conf):
            raise problem
        path = self._resolve(request.rootfs)
        archive = path if unpacking.is_archive(path) else None
        files = self.files
        strategy = request.strategy or self._option("rootfs_strategy")
        return InstanceRecord(
            request.name,
            request.uuid,
            files.unpacked(request.name) if archive else path,
            None,
            strategies.check_name(strategy),
            files.view(request.name),
            archive=archive,
            volumes=tuple(map(self._resolve_volume, request.volumes)),
        )

    def _complete(
        self,
        request: InstanceRequest,
        draft: InstanceRecord,
        known: InstanceRecord | None,
        *,
        keep: bool = True,
    ) -> InstanceRecord:
        """Add its ID maps."""
        id_maps = self._find_id_maps(request, known, keep)
        if id_maps is None:
            return replace(draft, strategy=strategies.PLAIN)
        return replace(draft, id_maps=id_maps)

    def _find_id_maps(
        self,
        request: InstanceRequest,
        known: InstanceRecord | None,
        keep: bool,
    ) -> IdMaps | None:
        if request.id_maps is None and options.has_pool(self._conf):
            lease = self.lessor.acquire(
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
                "asks for a lease of its own, and has ID maps or no pool",
            )
        return request.id_maps or options.load_id_maps(self._conf)

    def _resolve(self, path: str) -> str:
        with translated(path):
            os.stat(path)  # To realpath(), "" is the working directory.
            rootfs = os.path.realpath(path, strict=True)
        self._check_not_ours(rootfs, "give the directory of a root filesystem")
        return rootfs

    def _resolve_volume(self, volume: Volume) -> Volume:
        """The same, with the path that its source has now."""
        with volumes.opened(volume) as source:
            self._check_not_ours(source.path, "give another directory")
            return replace(volume, source=source.path)

    def _check_not_ours(self, path: str, advice: str) -> None:
        for name in ("state_path", "run_path"):
            ours = os.path.realpath(self._option(name))
            if overlap(path, ours):
                raise RootfsError(
                    path,
                    f"contains, or is in, [lxc_userns] {name} ({ours}); "
                    f"{advice}",
                )

    def _prepare(
        self,
        record: InstanceRecord,
        progress: Progress | None,
        program: str | None = None,
        complete: Complete | None = None,
    ) -> PreparedInstance:
        def shift(recheck: bool) -> ShiftOptions:
            return ShiftOptions(
                self._option("unmapped_ids"),
                recheck,
                self._option("shift_workers") or None,
                progress,
            )

        preparation = Preparation(self.inventory, self.lessor, shift, program)
        return PreparedInstance(preparation.run(record, complete))

    def _unmount(self, name: str) -> None:
        record = self.store.load(name)
        if record is not None and self.inventory.is_active(record):
            raise InstanceError(name, "is running; stop it first")
        self.files.unmount(name)

    def _record(self, instance: str | PreparedInstance) -> InstanceRecord:
        if isinstance(instance, PreparedInstance):
            return instance.record
        record = self.store.load(instance)
        if record is None:
            raise NoSuchContainerError(instance)
        return record

    def _destroy_unverified(
        self, record: InstanceRecord, reasons: list[str]
    ) -> NoReturn:
        text = "; ".join(reasons)
        try:
            self.guests.destroy(record.name)
        except Exception as err:
            err.add_note(f"{record.name} is not as promised: {text}")
            raise
        raise IsolationError(record.name, f"{text}; it was destroyed")

    def _option(self, name: str) -> Any:
        return option(self._conf, name)


def _name(instance: str | PreparedInstance) -> str:
    return instance if isinstance(instance, str) else instance.name
