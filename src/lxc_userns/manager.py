# SPDX-License-Identifier: Apache-2.0
"""Spawn and clean-up of one instance: the stages in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from oslo_config import cfg

from lxc_userns.arguments import checked
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import NoSuchContainerError
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord, check_name
from lxc_userns.libvirtd.client import Guests
from lxc_userns.ports import Ports
from lxc_userns.rootfs.views.strategies import Progress
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.verification import VerifiedInstance

INSTANCE: Final = (str, PreparedInstance)
PROGRESS: Final = (Callable, type(None))


class UserNamespaceManager:
    """Prepares, verifies and releases the instances of a host.

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
        self.guests = guests or Guests()

    @property
    def services(self) -> Services:
        """Services of this host, as it is configured now."""
        settings = Settings.from_conf(self._conf)
        return Services(settings, self.guests, self._roots, self._ports)

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
        services = self.services
        draft = services.planner.plan(request)
        known = services.store.load(request.name)
        return PreparedInstance(
            services.planner.assign_id_maps(request, draft, known, keep=False)
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
        services = self.services
        draft = services.planner.plan_ids_only(request)
        with services.store.lock(request.name):
            known = services.store.load(request.name)
            return PreparedInstance(
                services.planner.assign_id_maps(request, draft, known)
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
        services = self.services
        draft = services.planner.plan(request)
        preparation = services.preparation(progress, request.program)
        complete = partial(services.planner.assign_id_maps, request)
        return PreparedInstance(
            preparation.run(draft, complete, accept_replaced=accept_replaced)
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
        services = self.services
        record = services.store.load(name)
        if record is None:
            raise NoSuchContainerError(name)
        services.planner.check_again(record)
        preparation = services.preparation(progress)
        return PreparedInstance(
            preparation.run(record, accept_replaced=accept_replaced)
        )

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
        services = self.services
        verifier = services.verifier
        if isinstance(instance, PreparedInstance):
            record: InstanceRecord | None = instance.record
        else:
            record = services.store.load(instance)
        if record is None:
            return verifier.verify_foreign(_name(instance))
        verify = verifier.report if report_only else verifier.verify
        return verify(record, started=started)

    @checked(instance=INSTANCE)
    def detach(self, instance: str | PreparedInstance) -> None:
        """Unmount the views of a stopped instance, and keep its record.

        :raises InstanceError: if it is running.
        """
        name, services = _name(instance), self.services
        services.instances.check_stopped(name)
        with services.store.lock(name):
            services.releaser.unmount(name)

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
        self.services.files.sync(name)

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
        name, services = _name(instance), self.services
        services.instances.check_stopped(name)
        with services.store.lock(name):
            services.releaser.release(name)


def _name(instance: str | PreparedInstance) -> str:
    return instance if isinstance(instance, str) else instance.name
