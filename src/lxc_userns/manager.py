# SPDX-License-Identifier: Apache-2.0
"""Spawn and clean-up of one instance: the stages in their order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from oslo_config import cfg

from lxc_userns.arguments import checked
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import (
    InstanceError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.libvirtd.client import Guests
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest

if TYPE_CHECKING:
    from lxc_userns.ports import Ports
    from lxc_userns.rootfs.views.strategies import Progress
    from lxc_userns.verification import VerifiedInstance

INSTANCE: Final = (str, PreparedInstance)
REQUEST: Final = (InstanceRequest, str)
PROGRESS: Final = (Callable, type(None))
#: Verbs by the names of before, for one release.
_RENAMED: Final = {
    "detach": "unmount",
    "plan": "allocate",
    "prepare_again": "prepare",
    "reserve": "allocate",
}


class UserNamespaceManager:
    """Prepares, verifies and releases the instances of a host.

    A compute service calls :meth:`prepare`, gives its domain what
    :meth:`PreparedInstance.apply_to` says, starts it, and calls
    :meth:`verify` with ``started=True``; later :meth:`unmount` when it has
    stopped, :meth:`prepare` before each further start, and :meth:`release`
    at last. :doc:`verbs` has each verb in each state.

    All verbs can be repeated, and called again after a crash or a reboot of
    the host. Many threads, also green ones, and processes can call them at
    once: those on one instance wait for each other, by a lock on a file below
    ``state_path`` that ends with its process. A process that was forked makes
    a manager of its own, for it cannot share the connection to libvirt.

    :param conf: configuration with our options registered; read once in each
        call.
    :param guests: how to reach libvirt.
    :param roots: directories below which root filesystems, volumes and
        devices have to be, as absolute paths; None: they may be anywhere.
        There, directories may be the root's own owner's, as the user of a
        service.
    :param ports: what the machine is reached through besides libvirt.
    """

    @checked(conf=cfg.ConfigOpts)
    def __init__(
        self,
        conf: cfg.ConfigOpts,
        guests: Guests | None = None,
        *,
        roots: Sequence[str] | None = None,
        ports: Ports | None = None,
    ) -> None:
        self._conf = conf
        self._roots = None if roots is None else tuple(roots)
        self._ports = ports
        self._guests = guests or Guests()

    @property
    def _services(self) -> Services:
        settings = Settings.from_conf(self._conf)
        return Services(settings, self._guests, self._roots, self._ports)

    @checked(request=InstanceRequest)
    def allocate(self, request: InstanceRequest) -> PreparedInstance:
        """Give an instance its mode and ID maps, and nothing else yet.

        For who writes the domain before the root filesystem is there:
        :meth:`prepare` gives the same ID maps then, and :meth:`release` takes
        them back. From unknown it leads to allocated; in all other states it
        changes nothing, and gives what :meth:`prepare` would. Any thread and
        process may call it; those that have the same instance wait.

        After a crash in it the instance has its lease, or has none; call it
        again, or :meth:`release`.

        :param request: its ``rootfs`` and ``volumes`` do not count.
        :raises ConfigError: if the configuration cannot be used, or others
            hold the host IDs.
        :raises PolicyError: if the policy forbids the mode.
        :raises PoolExhaustedError: if there is no range left to lease.
        :raises LeaseError: if its lease is of another size.
        :raises NeedsError: if a device that it asks for is not there.
        :raises RunningError: if it runs with other ID maps.
        :raises InstanceError: if the name is another instance's, or it was
            promised ID maps and is to have none.
        """
        services = self._services
        draft = services.planner.plan_ids_only(request)
        assign = partial(services.planner.assign_id_maps, request)
        preparation = services.preparation(None)
        return PreparedInstance(preparation.allocate(draft, assign))

    @checked(request=REQUEST, progress=PROGRESS, accept_replaced=bool)
    def prepare(
        self,
        request: InstanceRequest | str,
        progress: Progress | None = None,
        *,
        accept_replaced: bool = False,
    ) -> PreparedInstance:
        """Do what an instance needs before its domain can start.

        It is prepared then, with its views mounted, from any state but
        running: one that runs as the request has it is left alone. It takes as
        long as the root filesystem is large where that is shifted or unpacked.
        Any thread and process may call it; with the same instance they wait.

        If it fails, nothing new is left but the part of the root filesystem
        that was shifted by then, and a later shift or unshift goes on from
        there. A crash leaves a part of the work, which the next call of it
        finishes, or :meth:`release` takes back.

        :param request: a request; or the name of an instance, which is
            prepared as it was promised, whatever is configured now. What is
            configured has to be in order all the same, and the policy counts
            as it is now: what may not run in the host's user namespace any
            more does not. Nor does what has host IDs that others hold by now,
            unless they are those of its lease, which it keeps.
        :param progress: called with the number of inodes seen so far.
        :param accept_replaced: whether root filesystem and volumes may be
            other files than when it was first prepared, under the same paths.
        :raises NoSuchContainerError: if what has this name was not prepared.
        :raises RunningError: if it runs, and is to be changed.
        :raises ReplacedError: if other files are where its own were.
        :raises RootfsError: if the root filesystem or a volume is not there,
            cannot be used, or is in use by another instance.
        :raises ConfigError: as :meth:`allocate`, and so are PolicyError,
            PoolExhaustedError, LeaseError, NeedsError and InstanceError.
        """
        services = self._services
        if isinstance(request, str):
            wanted, assign = self._load(services, request), None
            services.planner.check_again(wanted)
            preparation = services.preparation(progress)
        else:
            wanted = services.planner.plan(request)
            assign = partial(services.planner.assign_id_maps, request)
            preparation = services.preparation(
                progress, request.program, grow=request.grow
            )
        return PreparedInstance(
            preparation.run(wanted, assign, accept_replaced=accept_replaced)
        )

    @checked(instance=INSTANCE, started=bool)
    def verify(
        self,
        instance: str | PreparedInstance,
        *,
        started: bool,
        report_only: bool | None = None,
    ) -> VerifiedInstance:
        """Compare a running container with what was promised.

        It has to be running. One that is as promised is limited in what it
        may use up of what all containers share, see
        :doc:`../security/index`, and noted as verified. Repeat that when it
        may have rebooted itself. One that differs is destroyed, and its views
        stay. Any thread and process may call it; none waits while it looks.

        After a crash in it the container runs and is not noted as verified,
        or is destroyed: call it again, with the same ``started``.

        :param instance: its name, or what :meth:`prepare` gave.
        :param started: whether it has just been started. Nothing of what it
            was given may be missing then, or covered by something else, and
            it is destroyed also if it cannot be looked at, for whatever
            reason. Later it is destroyed if it differs, and for nothing else.
        :param report_only: deprecated; ``lxc-userns container verify
            --report-only`` compares and changes nothing.
        :raises IsolationError: if it is not as promised, or has just been
            started and cannot be looked at; it is destroyed then.
        :raises InspectionError: if it cannot be looked at, and runs on.
        :raises NoSuchContainerError: if it was not prepared.
        :raises NotRunningError: if it is not running.
        :raises InstanceError: if the name is another instance's by now.
        """
        services = self._services
        try:
            record = self._load(services, instance)
        except InstanceError:
            if started and isinstance(instance, PreparedInstance):
                # Its host IDs may be another's by now.
                self._guests.destroy(instance.name, instance.uuid)
            raise
        if report_only is not None:
            name = f"{type(self).__name__}.verify: report_only"
            _warn(name, "leave it out", stacklevel=4)
        verifier = services.verifier
        verify = verifier.report if report_only else verifier.verify
        try:
            return verify(record, started=started)
        except NotRunningError as err:
            reason = _not_running(services, record)
            raise NotRunningError(record.name, reason) from err

    @checked(instance=INSTANCE)
    def unmount(self, instance: str | PreparedInstance) -> None:
        """Unmount the views of a stopped instance, and keep all else.

        It is unmounted then: record, lease and what its root filesystem has
        of its own stay, and :meth:`prepare` mounts the views again. Nothing
        happens where nothing is mounted. Any thread and process may call it;
        those that have the same instance wait.

        A crash in it leaves some views mounted; call it again.

        :raises RunningError: if it is running.
        :raises RootfsError: if a view is busy, with what is mounted below.
        :raises InstanceError: if the name is another instance's by now.
        """
        name, uuid, services = _name(instance), _uuid(instance), self._services
        services.instances.check_stopped(name, "unmount", uuid)
        with services.store.lock(name):
            services.releaser.unmount(name, uuid)

    @checked(instance=INSTANCE)
    def release(self, instance: str | PreparedInstance) -> None:
        """Undo :meth:`allocate` and :meth:`prepare`, whatever they have done.

        It is unknown then: views are unmounted, the lease is another's to
        have. A directory or image that was given stays as it is: shifted, for
        the next start, if the strategy is ``chown``. What was made for the
        instance alone is removed: the upper layer of its overlay, and what
        was unpacked from an archive. Its domain is the caller's to undefine,
        before or after. It may be called in every state but running, by any
        thread and process; those that have the same instance wait.

        A crash in it leaves a part; call it again. Its IDs are given back last
        of all, so that no other instance has them while anything is left.

        :raises RunningError: if it is running.
        :raises RootfsError: if a view is busy, with what is mounted below.
        :raises InstanceError: if the name is another instance's by now.
        """
        name, uuid, services = _name(instance), _uuid(instance), self._services
        services.instances.check_stopped(name, "release", uuid)
        with services.store.lock(name):
            services.releaser.release(name, uuid=uuid)

    @checked(instance=INSTANCE)
    def sync(self, instance: str | PreparedInstance) -> None:
        """Write to disk what the kernel has of its root filesystem.

        For who copies an image while it is mounted. What is written during
        the copy may be in it in part: stop the instance where it has to be of
        one moment. It changes no state, and does nothing where no view is
        mounted. Any thread and process may call it in any state; those that
        have the same instance wait.

        A crash in it leaves everything as it was, written to disk or not.

        :raises RootfsError: if that fails.
        :raises InstanceError: if the name is another instance's by now.
        """
        name, services = _name(instance), self._services
        # What is open in a view keeps it from being unmounted.
        with services.store.lock(name):
            record = services.store.load(name)
            if record is not None:
                services.instances.check_same(
                    name, record, _uuid(instance), "sync"
                )
                services.files.check_view(record)
            services.files.sync(name)

    @staticmethod
    def _load(
        services: Services, instance: str | PreparedInstance
    ) -> InstanceRecord:
        """Return what an instance was promised.

        :raises NoSuchContainerError: if it was not prepared.
        :raises InstanceError: if the name is another's.
        """
        name, uuid = _name(instance), _uuid(instance)
        record = services.store.load(name)
        if record is None:
            leased = services.allocator.find(name)
            state = "is allocated" if leased else "is unknown"
            raise NoSuchContainerError(
                name, f"{state}; call prepare with a request"
            )
        # Of the verbs that need a record, this alone is given a UUID.
        services.instances.check_same(name, record, uuid, "verify")
        return record

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Return a verb by its name of before, and warn."""
            if name not in _RENAMED:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}"
                )
            now = _RENAMED[name]
            _warn(f"{type(self).__name__}.{name}", f"use {now}")
            return getattr(self, "_plan" if name == "plan" else now)

    def _plan(self, request: InstanceRequest) -> PreparedInstance:
        services = self._services
        known = services.store.load(request.name)
        return PreparedInstance(services.planner.preview(request, known))


def _warn(name: str, remedy: str, *, stacklevel: int = 3) -> None:
    text = f"{name} is deprecated; {remedy}"
    warnings.warn(text, DeprecationWarning, stacklevel)


def _not_running(services: Services, record: InstanceRecord) -> str:
    state = services.instances.state_of(record)
    if state == "unmounted":
        return "is unmounted; call prepare, then start its domain"
    return f"is {state}; start its domain, then call verify"


def _uuid(instance: str | PreparedInstance) -> str | None:
    return None if isinstance(instance, str) else instance.uuid


def _name(instance: str | PreparedInstance) -> str:
    return instance if isinstance(instance, str) else instance.name
