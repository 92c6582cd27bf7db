# SPDX-License-Identifier: Apache-2.0
"""Spawn and clean-up of one instance: the stages in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from oslo_config import cfg

from lxc_userns.arguments import checked
from lxc_userns.config.check import option
from lxc_userns.config.options import load_unpack_limits
from lxc_userns.domain import seclabel
from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    NoSuchContainerError,
)
from lxc_userns.idmap import CONTAINER_IDS, IdMaps
from lxc_userns.instances.conflicts import PathUse
from lxc_userns.instances.filesystems import Filesystems
from lxc_userns.instances.instances import Instances
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import (
    InstanceRecord,
    InstanceStore,
    check_name,
)
from lxc_userns.leases import Lease, LeaseStore
from lxc_userns.leases.allocator import LeaseAllocator
from lxc_userns.libvirtd.client import Guest, Guests
from lxc_userns.plan import Planner
from lxc_userns.prepare import AssignIdMaps, Preparation
from lxc_userns.resources import partition
from lxc_userns.rootfs.views.source import translated
from lxc_userns.rootfs.views.strategies import Progress, ShiftOptions
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.traces.store import Traces
from lxc_userns.verification import VerifiedInstance
from lxc_userns.verification.verifier import Verifier

INSTANCE: Final = (str, PreparedInstance)
PROGRESS: Final = (Callable, type(None))


class UserNamespaceManager:
    """Prepares, verifies and releases the instances of a host.

    :param conf: configuration with our options registered; read at each use.
    :param guests: how to reach libvirt.
    :param roots: directories below which root filesystems, volumes and
        devices have to be, as absolute paths; None: they may be anywhere.
        There, directories may be the root's own owner's, as the user of a
        service.
    """

    @checked(conf=cfg.ConfigOpts)
    def __init__(
        self,
        conf: cfg.ConfigOpts,
        guests: Guests | None = None,
        *,
        roots: Sequence[str] | None = None,
    ) -> None:
        self._conf = conf
        self._roots = None if roots is None else tuple(roots)
        self.guests = guests or Guests()

    @property
    def store(self) -> InstanceStore:
        """The records of this host's instances."""
        return InstanceStore(self._option("state_path"))

    @property
    def files(self) -> Filesystems:
        """The filesystems of this host's instances."""
        return Filesystems(
            self._option("state_path"),
            self._option("run_path"),
            self._roots or (),
        )

    @property
    def traces(self) -> Traces:
        """Traces of this host's containers."""
        return Traces(self._option("state_path"))

    @property
    def instances(self) -> Instances:
        """All that is known of this host's instances."""
        return Instances(self.store, self.files, self.guests)

    @property
    def allocator(self) -> LeaseAllocator:
        """The lease allocator of this host."""
        try:
            pool = self._option("subid_owner"), self._option("range_size")
        except ConfigError:
            # Whoever wants a lease is told; nobody else needs to know.
            pool = "", CONTAINER_IDS
        leases = LeaseStore(self._option("state_path"))
        return LeaseAllocator(self.instances, leases, *pool)

    @property
    def _planner(self) -> Planner:
        return Planner(self._conf, self.files, self.allocator, self._roots)

    @checked(request=InstanceRequest)
    def plan(self, request: InstanceRequest) -> PreparedInstance:
        """Return what :meth:`prepare` would give; changes nothing.

        The strategy may still be ``auto``: only trying it on the root
        filesystem tells which one that is. The ID maps of an instance that
        has no lease yet are another's if that one is prepared first.

        :raises ConfigError: if the configuration cannot be used.
        :raises PolicyError: if the policy forbids it.
        :raises InstanceError: if name or UUID cannot be used, or there is no
            lease for it.
        :raises RootfsError: if the root filesystem or a volume is not there.
        """
        planner = self._planner
        draft = planner.plan(request)
        known = self.store.load(request.name)
        return PreparedInstance(
            planner.assign_id_maps(request, draft, known, keep=False)
        )

    @checked(request=InstanceRequest)
    def reserve(self, request: InstanceRequest) -> PreparedInstance:
        """Give an instance its mode and ID maps, and nothing else yet.

        For who has to write the domain before the root filesystem is there:
        :meth:`prepare` then gives the same, and :meth:`release` takes it back.

        :param request: its ``rootfs`` and ``volumes`` do not count.
        :raises PolicyError: if the policy forbids it.
        :raises LxcUsernsError: if anything else is in the way.
        """
        planner = self._planner
        draft = planner.plan_ids_only(request)
        with self.store.lock(request.name):
            known = self.store.load(request.name)
            return PreparedInstance(
                planner.assign_id_maps(request, draft, known)
            )

    @checked(request=InstanceRequest, progress=PROGRESS)
    def prepare(
        self,
        request: InstanceRequest,
        progress: Progress | None = None,
        *,
        accept_replaced: bool = False,
    ) -> PreparedInstance:
        """Do what an instance needs before its domain can start.

        Idempotent, also after a crash or a reboot of the host. If it fails,
        nothing new is left but the part of the root filesystem that was
        shifted by then, and a later shift or unshift goes on from there.

        :param progress: called with the number of inodes seen so far.
        :param accept_replaced: whether root filesystem and volumes may be
            other files than when it was first prepared, under the same paths.
        :raises ReplacedError: if they are, and may not.
        :raises LxcUsernsError: if anything else is in the way.
        """
        planner = self._planner
        draft = planner.plan(request)
        complete = partial(planner.assign_id_maps, request)
        return self._prepare(
            draft,
            progress,
            request.program,
            complete,
            accept_replaced=accept_replaced,
        )

    @checked(name=str, progress=PROGRESS)
    def prepare_again(
        self,
        name: str,
        progress: Progress | None = None,
        *,
        accept_replaced: bool = False,
    ) -> PreparedInstance:
        """Prepare an instance as it was promised, whatever is configured now.

        What is configured has to be in order all the same, and the policy
        counts as it is now: what may not run in the host's user namespace any
        more does not. Nor does what has host IDs that others hold by now.

        :param progress: as for :meth:`prepare`.
        :param accept_replaced: as for :meth:`prepare`.
        :raises NoSuchContainerError: if it was never prepared.
        :raises LxcUsernsError: if anything is in the way.
        """
        record = self._record(name)
        self._planner.check_again(record)
        return self._prepare(record, progress, accept_replaced=accept_replaced)

    @checked(instance=INSTANCE)
    def verify(
        self,
        instance: str | PreparedInstance,
        *,
        started: bool,
        report_only: bool = False,
    ) -> VerifiedInstance:
        """Compare a running container with what was promised.

        One that is as promised is limited in what it may use up of what all
        containers share, see :doc:`../security/index`. Repeat that when it
        may have rebooted itself.

        :param instance: its name, or what :meth:`prepare` gave. The name of
            a domain that others have made means what its XML promises, and
            it is left alone whatever is found.
        :param started: whether it has just been started. Nothing of what it
            was given may be missing then, or covered by something else, and
            it is destroyed also if it cannot be looked at, for whatever
            reason. Later it is destroyed if it differs, and for nothing else.
        :param report_only: whether to change nothing: neither to limit it,
            nor to record that it was verified, nor to destroy it.
        :raises IsolationError: if it is not as promised, or has just been
            started and cannot be looked at; it is destroyed then.
        :raises InspectionError: if it cannot be looked at, and runs on.
        :raises NoSuchContainerError: if there is none of this name.
        :raises NotRunningError: if it is not running.
        """
        verifier = Verifier(self.instances)
        if isinstance(instance, PreparedInstance):
            record: InstanceRecord | None = instance.record
        else:
            record = self.store.load(instance)
        if record is None:
            return verifier.verify_foreign(_name(instance))
        verify = verifier.report if report_only else verifier.verify
        return verify(record, started=started)

    @checked(instance=INSTANCE)
    def detach(self, instance: str | PreparedInstance) -> None:
        """Unmount the views of a stopped instance, and keep its record.

        :raises InstanceError: if it is running.
        """
        name = _name(instance)
        with self.store.lock(name):
            self._unmount(name)

    @checked(instance=INSTANCE)
    def sync(self, instance: str | PreparedInstance) -> None:
        """Write to disk what the kernel has of its root filesystem.

        For who copies an image while it is mounted: the copy is as after a
        loss of power, which a filesystem with a journal gets over.

        :raises InstanceError: if it is not a name.
        :raises RootfsError: if that fails.
        """
        name = _name(instance)
        check_name(name)
        self.files.sync(name)

    @checked(instance=INSTANCE)
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
        """Release like :meth:`release`, but keep a lease of before.

        :param before: what it was when nothing was prepared yet.
        """
        with self.store.lock(name):
            self.clear(
                name, partial(self.allocator.restore_lease, before=before)
            )

    def clear(
        self, name: str, give_back: Callable[[str], bool] | None = None
    ) -> bool:
        """Release like :meth:`release`; the caller has locked the instance.

        :param give_back: does with its lease what is to be done, and says
            whether it has none now; None releases it.
        """
        record = self.store.load(name)
        self._unmount(name)
        self.files.remove(name)
        self.traces.remove(name)
        self.store.remove(name)
        # Last of all: nobody else gets IDs of a lease.
        if give_back is not None:
            return give_back(name)
        return self.allocator.release(name, record)

    @contextmanager
    def reserved(self, path: str, id_maps: IdMaps | None) -> Iterator[int]:
        """Keep a root filesystem from being taken in use, to shift it.

        :param path: the root filesystem.
        :param id_maps: what it is about to be shifted for.
        :returns: ``O_PATH`` descriptor of it.
        :raises RootfsError: if an instance uses it, or a tree around or
            within it, with other ID maps.
        """
        rootfs = self._planner.resolve(path)
        claim = PathUse(rootfs, "chown", id_maps)
        with (
            self.files.opened_path(rootfs) as fd,
            translated(path),
            self.store.lock_trees([fd]),
        ):
            self.instances.check_unused([claim], besides=None)
            if id_maps is not None:
                self.allocator.note_shift(rootfs, id_maps)
            yield fd

    @property
    def security_model(self) -> str | None:
        """Security module that is to confine new containers, if one is.

        :raises ConfigError: if ``[lxc_userns] seclabel`` is not valid.
        :raises LibvirtError: if libvirtd cannot be reached.
        """
        if self._option("seclabel") == "none":
            return None
        models = seclabel.parse_models(self.guests.capabilities())
        return next(iter(models), None)

    def find_guest(self, record: InstanceRecord) -> Guest | None:
        """The domain of an instance, None if there is none."""
        return self.instances.find_guest(record)

    def _prepare(
        self,
        record: InstanceRecord,
        progress: Progress | None,
        program: str | None = None,
        complete: AssignIdMaps | None = None,
        *,
        accept_replaced: bool,
    ) -> PreparedInstance:
        def shift(recheck: bool) -> ShiftOptions:
            return ShiftOptions(
                self._option("unmapped_ids"),
                recheck,
                self._option("shift_workers") or None,
                progress,
            )

        limits = partial(load_unpack_limits, self._conf)
        preparation = Preparation(
            self.instances, self.allocator, shift, limits, program
        )
        return PreparedInstance(
            preparation.run(record, complete, accept_replaced=accept_replaced)
        )

    def _unmount(self, name: str) -> None:
        record = self.store.load(name)
        if record is not None and self.instances.is_active(record):
            raise InstanceError(name, "is running; stop it first")
        self.files.unmount(name)
        partition.remove(name)

    def _record(self, instance: str | PreparedInstance) -> InstanceRecord:
        if isinstance(instance, PreparedInstance):
            return instance.record
        record = self.store.load(instance)
        if record is None:
            raise NoSuchContainerError(instance)
        return record

    def _option(self, name: str) -> Any:
        return option(self._conf, name)


def _name(instance: str | PreparedInstance) -> str:
    return instance if isinstance(instance, str) else instance.name
