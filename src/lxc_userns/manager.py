# SPDX-License-Identifier: Apache-2.0
"""Spawn and clean-up of one instance: the stages in their order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from oslo_config import cfg

from lxc_userns import conf as options
from lxc_userns import verification
from lxc_userns.config_check import option, refuse_pool
from lxc_userns.domain import Filesystem
from lxc_userns.exceptions import (
    InstanceError,
    IsolationError,
    NoSuchContainerError,
    RootfsError,
)
from lxc_userns.guest import Guest, Guests
from lxc_userns.idmap import IdMaps
from lxc_userns.instances import InstanceRecord, InstanceStore, Mode
from lxc_userns.rootfs import views
from lxc_userns.undo import undo

_ROOT = "root"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class InstanceRequest:
    """What a compute service asks for.

    :param name: name of the instance and of its libvirt domain: a letter or
        digit, then at most 62 letters, digits, ``.``, ``_`` and ``-``.
    :param uuid: UUID of both.
    :param rootfs: directory with its root filesystem.
    :param id_maps: its ID maps; None: those of the configuration.
    """

    name: str
    uuid: str
    rootfs: str
    id_maps: IdMaps | None = None


@dataclass(frozen=True, slots=True)
class PreparedInstance:
    """What its domain has to have.

    :param record: what is promised, as it is kept on disk.
    """

    record: InstanceRecord

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.record.name

    @property
    def uuid(self) -> str:
        """UUID of the instance."""
        return self.record.uuid

    @property
    def mode(self) -> Mode:
        """``private`` with a user namespace of its own, or ``host``."""
        return self.record.mode

    @property
    def id_maps(self) -> IdMaps | None:
        """What ``<idmap>`` has to be; None: there must be none."""
        return self.record.id_maps

    @property
    def root(self) -> str:
        """The view of the root filesystem, an absolute path on the host."""
        return self.record.view

    @property
    def filesystems(self) -> tuple[Filesystem, ...]:
        """The ``<filesystem>`` elements, the root's first."""
        return (Filesystem.mount(self.root, "/"),)

    @property
    def needs_private_network(self) -> bool:
        """Whether ``<privnet/>`` is a must if there is no ``<interface>``.

        Without either, the container would share the host's network, and
        with ID maps it could not mount ``/sys`` and not start.
        """
        return self.mode == "private"


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

    def plan(self, request: InstanceRequest) -> PreparedInstance:
        """What :meth:`prepare` would give; changes nothing.

        :raises ConfigError: if the configuration cannot be used.
        :raises InstanceError: if name or UUID cannot be used.
        :raises RootfsError: if the root filesystem is not there.
        """
        for problem in options.find_problems(self._conf):
            raise problem
        id_maps = request.id_maps or self._load_id_maps()
        record = InstanceRecord(
            request.name,
            request.uuid,
            self._resolve(request.rootfs),
            id_maps,
            views.choose(self._option("rootfs_strategy"), id_maps),
            self._views().path(request.name, _ROOT),
        )
        return PreparedInstance(record)

    def prepare(
        self, request: InstanceRequest, progress: Progress | None = None
    ) -> PreparedInstance:
        """Do what an instance needs before its domain can start.

        Idempotent, also after a crash or a reboot of the host; what is right
        already is kept. If it fails, nothing new is left but the part of the
        root filesystem that was shifted by then, and a later shift or unshift
        goes on from there.

        :param progress: called with the number of inodes seen so far.
        :raises LxcUsernsError: if anything is in the way.
        """
        record = self.plan(request).record
        with self.store.lock(record.name):
            known = self.store.load(record.name)
            if (
                known is not None
                and replace(known, ready=None) == record
                and self._is_active(record)
            ):
                self._check_mounted(record)
                return PreparedInstance(known)
            with views.opened_rootfs(record.rootfs) as backing:
                done = self._prepare(record, known, backing, progress)
            return PreparedInstance(done)

    def verify(
        self, instance: str | PreparedInstance
    ) -> verification.VerifiedInstance:
        """Compare a running container with what was promised.

        :param instance: its name, or what :meth:`prepare` gave.
        :raises IsolationError: if it is not as promised, or cannot be
            looked at; it is destroyed then.
        :raises InstanceError: if it is not running.
        """
        record = self._record(instance)
        if not self._is_active(record):
            raise InstanceError(record.name, "is not running")
        try:
            with self.guests.init_process(record.name) as init:
                found = verification.describe(record.name, init)
                reasons = list(verification.mismatches(record.id_maps, init))
        except (InstanceError, ProcessLookupError) as err:
            if not self._is_active(record):
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

        The root filesystem stays shifted, for the next start.

        :raises InstanceError: if the instance is running.
        :raises RootfsError: if a view is busy.
        """
        name = _name(instance)
        with self.store.lock(name):
            self._unmount(name)
            self.store.remove(name)

    @contextmanager
    def reserved(self, path: str, id_maps: IdMaps | None) -> Iterator[None]:
        """Keep a root filesystem from being taken in use, to shift it.

        :param path: the root filesystem.
        :param id_maps: what it is about to be shifted for.
        :raises RootfsError: if an instance uses it, or a tree around or
            within it, with other ID maps.
        """
        rootfs = self._resolve(path)
        with views.translated(path), self.store.lock_rootfs(rootfs):
            self._check_unused(rootfs, id_maps, besides=None)
            yield

    def find_guest(self, record: InstanceRecord) -> Guest | None:
        """The domain of an instance, None if there is none.

        A domain of the same name and another UUID is somebody else's.
        """
        guest = self.guests.find(record.name)
        return guest if guest and guest.uuid == record.uuid else None

    def _load_id_maps(self) -> IdMaps | None:
        refuse_pool(self._conf)
        return options.load_id_maps(self._conf)

    def _resolve(self, path: str) -> str:
        with views.translated(path):
            os.stat(path)  # To realpath(), "" is the working directory.
            rootfs = os.path.realpath(path, strict=True)
        for name in ("state_path", "run_path"):
            ours = os.path.realpath(self._option(name))
            if _overlap(rootfs, ours):
                raise RootfsError(
                    rootfs,
                    f"contains, or is in, [lxc_userns] {name} ({ours}); "
                    "give the directory of a root filesystem",
                )
        return rootfs

    def _prepare(
        self,
        record: InstanceRecord,
        known: InstanceRecord | None,
        backing: views.Backing,
        progress: Progress | None,
    ) -> InstanceRecord:
        self._check_replaceable(record, known)
        strategy = views.STRATEGIES[record.strategy]
        with ExitStack() as stack:
            stack.enter_context(self.store.lock_rootfs(record.rootfs))
            self._check_unused(
                record.rootfs, record.id_maps, besides=record.name
            )
            if known is None:
                undo(stack, self.store.remove, record.name)
            inode = os.fstat(backing.fd).st_ino
            ready = replace(record, ready=inode)
            # Before the first change, so that release can undo them all.
            self.store.save(known if known == ready else record)
            strategy.make_ready(
                backing,
                record.id_maps,
                self._shift_options(progress, recheck=known != ready),
            )
            self.store.save(ready)
            undo(stack, self._views().unmount, record.name)
            self._views().mount(
                strategy, backing, record.name, _ROOT, record.id_maps
            )
        return ready

    def _check_replaceable(
        self, record: InstanceRecord, known: InstanceRecord | None
    ) -> None:
        guest = self.guests.find(record.name)
        if guest and guest.is_active:
            raise InstanceError(record.name, "is running; stop it first")
        if known is None:
            return
        if known.uuid != record.uuid:
            raise InstanceError(
                record.name,
                f"the name is taken by the instance {known.uuid}; release "
                "that one first",
            )
        if known.id_maps is not None and record.id_maps is None:
            raise InstanceError(
                record.name,
                f"it was promised the ID maps {known.id_maps.uid} and "
                f"{known.id_maps.gid}, and now none are configured; "
                "configure them or release it first",
            )

    def _check_unused(
        self, rootfs: str, id_maps: IdMaps | None, *, besides: str | None
    ) -> None:
        for record in self.store.load_all():
            if record.name == besides or not _overlap(record.rootfs, rootfs):
                continue
            if record.rootfs == rootfs and record.id_maps == id_maps:
                continue
            if self._views().is_mounted(record.name) or self._is_active(
                record
            ):
                raise RootfsError(
                    rootfs,
                    f"is in use by the instance {record.name}; stop that "
                    "one first",
                )

    def _check_mounted(self, record: InstanceRecord) -> None:
        if not self._views().is_mounted(record.name):
            raise InstanceError(
                record.name,
                f"is running, but its view {record.view} is not mounted; "
                "stop it first",
            )

    def _is_active(self, record: InstanceRecord) -> bool:
        guest = self.find_guest(record)
        return guest is not None and guest.is_active

    def _unmount(self, name: str) -> None:
        record = self.store.load(name)
        if record is not None and self._is_active(record):
            raise InstanceError(name, "is running; stop it first")
        self._views().unmount(name)

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

    def _views(self) -> views.Views:
        return views.Views(self._option("run_path"))

    def _shift_options(
        self, progress: Progress | None, *, recheck: bool
    ) -> views.ShiftOptions:
        return views.ShiftOptions(
            self._option("unmapped_ids"),
            recheck,
            self._option("shift_workers") or None,
            progress,
        )

    def _option(self, name: str) -> Any:
        return option(self._conf, name)


def _name(instance: str | PreparedInstance) -> str:
    return instance if isinstance(instance, str) else instance.name


def _overlap(one: str, other: str) -> bool:
    paths = Path(one), Path(other)
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(
        paths[0]
    )
