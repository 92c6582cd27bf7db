# SPDX-License-Identifier: Apache-2.0
"""Whole containers, for those who have no compute service."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace as changed
from functools import partial
from typing import TYPE_CHECKING

from lxc_userns.containers import preview
from lxc_userns.containers.ending import ended_at_once, wait_for_end
from lxc_userns.containers.restart_units import RestartUnits
from lxc_userns.containers.state import (
    UNVERIFIED,
    Container,
    StateReader,
    is_just_started,
)
from lxc_userns.exceptions import (
    AlreadyRunningError,
    InstanceError,
    IsolationError,
    LibvirtError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.instances import steps
from lxc_userns.libvirtd.client import STOP_TIMEOUT
from lxc_userns.linux import hostname
from lxc_userns.rollback import undo
from lxc_userns.spec.restart_policy import RestartPolicy

if TYPE_CHECKING:
    from lxc_userns.containers.ending import Ending
    from lxc_userns.containers.spec import ContainerSpec
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.leases import Lease
    from lxc_userns.libvirtd.guest import Guest
    from lxc_userns.manager import UserNamespaceManager
    from lxc_userns.rootfs.views.strategies import Progress
    from lxc_userns.services import Services
    from lxc_userns.verification import VerifiedInstance


class Containers:
    """The containers of a host.

    Stopping, starting and destroying one that a compute service made is
    possible too, but that service will not expect it.

    :param manager: the verbs on instances.
    :param services: the services of the host.
    :param units: starts them again; None for systemd of this host.
    """

    def __init__(
        self,
        manager: UserNamespaceManager,
        services: Services,
        units: RestartUnits | None = None,
    ) -> None:
        self._manager = manager
        self._units = units or RestartUnits()
        self._services = services
        self._guests = services.guests

    def run(
        self,
        spec: ContainerSpec,
        progress: Progress | None = None,
        *,
        replace: bool = False,
    ) -> VerifiedInstance:
        """Make a container and start it.

        If that fails nothing of it is left; its root filesystem may be
        shifted, wholly or in part.

        :param replace: whether one of ours that has the name is destroyed
            before, once all is looked at that can be without preparing it.
        :raises ContainerExistsError: if the name is taken. A container of
            that name that runs unverified is verified before, or destroyed.
        :raises ConfigError: if no ID maps are configured.
        :raises LxcUsernsError: if anything else is in the way.
        """
        services, name = self._services, spec.name
        request = spec.to_request(preview.find_security_model(services))
        with services.store.lock_container(name):
            known = services.store.load(name)
            if known and not replace and self._is_unverified(known):
                self._finish(known)
            self._units.check(spec.restart)
            plan = preview.check(
                services, spec, request, known, replace=replace
            )
            if known is not None:
                preview.look_at_files(
                    services, plan.record, spec.init[0], warns=False
                )
                steps.log(name, preview.destruction(name))
                self._destroy(known)
            with ExitStack() as stack:
                before = services.allocator.find(name)
                prepared = self._manager.prepare(request, progress)
                undo(stack, self._withdraw, name, before)
                steps.log(name, *preview.definition(spec))
                self._guests.define(name, spec.to_xml(prepared))
                undo(stack, self._guests.undefine, name)
                if spec.autostart:
                    self._guests.set_autostart(name, True)
                found = self._start(name, stack)
                undo(stack, self._units.set_policy, name, RestartPolicy.NO)
                self._units.set_policy(name, spec.restart)
                self._units.follow(name)
                return found

    def start(
        self,
        name: str,
        progress: Progress | None = None,
        *,
        accept_replaced: bool = False,
    ) -> VerifiedInstance:
        """Start a container that was stopped.

        One that runs unverified, because whoever started it was killed before
        it was verified, or because it has rebooted itself, is verified, or
        destroyed.

        :param accept_replaced: whether root filesystem and volumes may be
            other files than those that it was made with.
        :raises NoSuchContainerError: if there is none of this name.
        :raises AlreadyRunningError: if it runs verified.
        :raises InstanceError: if it was only half made.
        """
        with self._locked(name) as record:
            self._guests.end_lost(name, record.uuid)
            guest = self._find_whole(record)
            if self._is_unverified(record):
                return self._finish(record)
            if guest.is_active:
                raise AlreadyRunningError(name)
            return self._start_again(name, progress, accept_replaced)

    def wait(self, name: str) -> Ending:
        """Wait until a container has ended; one that reboots has not.

        :returns: how it has; at once, and how its last run did, if it does
            not run.
        :raises NoSuchContainerError: if there is none of this name.
        :raises NotRunningError: if it does not run, and how its last run ended
            was not noted.
        :raises LibvirtError: if libvirt cannot be asked.
        """
        known = self._services.instances.load(name)
        if known is None and self._guests.find(name) is None:
            raise NoSuchContainerError(name)
        return wait_for_end(self._services, name)

    def restart(
        self,
        name: str,
        progress: Progress | None = None,
        *,
        timeout: float = STOP_TIMEOUT,
    ) -> VerifiedInstance:
        """Stop a container, if it runs, and start it.

        It is not stopped if the policy would not let it start again.

        :param timeout: as for :meth:`stop`.
        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it was only half made.
        """
        with self._locked(name) as record:
            self._find_whole(record)
            self._services.planner.check_again(record)
            self._stop(record, timeout)
            return self._start_again(name, progress)

    def stop(self, name: str, timeout: float = STOP_TIMEOUT) -> None:
        """Stop a container and unmount its view; nothing if it is stopped.

        :param timeout: seconds that it has to stop by itself.
        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._locked(name) as record:
            self._stop(record, timeout)

    def destroy(self, name: str) -> None:
        """Kill a container and forget it, whatever state it is in.

        A directory or image that was given as its root filesystem is left
        alone, and stays shifted if it was. What was unpacked for it from an
        archive, or changed on its overlay, is removed.

        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._locked(name) as record:
            self._destroy(record)

    def set_autostart(self, name: str, is_on: bool) -> None:
        """Let libvirt start a container at the host's boot, or not.

        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._locked(name):
            self._guests.set_autostart(name, is_on)

    def verify(
        self, name: str, *, report_only: bool = False
    ) -> VerifiedInstance:
        """Compare a running container with what was promised.

        One that was never verified since it was prepared is taken for just
        started, as by who was killed before verifying it. One that others
        have made is compared with what its XML promises, and left alone.

        :param report_only: whether to change nothing: neither to limit it,
            nor to record that it was verified, nor to destroy it.
        :raises LxcUsernsError: as
            :meth:`~lxc_userns.UserNamespaceManager.verify`.
        """
        record = self._services.instances.load(name)
        verifier = self._services.verifier
        if record is None:
            return verifier.verify_foreign(name)
        started = is_just_started(record)
        if report_only:
            return verifier.report(record, started=started)
        return verifier.verify(record, started=started)

    def show(self, name: str) -> Container:
        """Return a container as it is now.

        :raises NoSuchContainerError: if there is none of this name.
        """
        services = self._services
        record = services.instances.load(name)
        states = StateReader(services, with_interfaces=True)
        if record is not None:
            found = states.with_networks(states.describe(record))
            return changed(found, restart=self._units.find_policy(name))
        guest = self._guests.find(name)
        if guest is None:
            raise NoSuchContainerError(name)
        return states.with_networks(states.describe_foreign(guest))

    def list(self) -> list[Container]:
        """Return all containers as they are now, by name, others' too.

        One whose record is damaged, or of a newer version, is left out, with
        a warning.
        """
        return StateReader(self._services, with_interfaces=True).describe_all()

    def names(self, *, active: bool | None = None) -> Iterator[str]:
        """Yield the names of our containers, those with damaged records too.

        :param active: whether to give those alone that run, or that do not.
        """
        running = {each.name for each in self._guests.list() if each.is_active}
        for record in self._services.store.load_all():
            if active in (None, record.name in running):
                yield record.name

    def _find_whole(self, record: InstanceRecord) -> Guest:
        """Return what libvirt knows of a container that was made wholly."""
        guest = self._services.instances.find_guest(record)
        if guest is None:
            raise InstanceError(record.name, "is incomplete; destroy it")
        return guest

    def _is_unverified(self, record: InstanceRecord) -> bool:
        state = StateReader(self._services).describe(record).state
        return state == UNVERIFIED

    def _stop(self, record: InstanceRecord, timeout: float) -> None:
        if self._note_stop(record):
            self._guests.stop(record.name, timeout)
        self._manager.unmount(record.name)

    def _destroy(self, record: InstanceRecord) -> None:
        self._units.set_policy(record.name, RestartPolicy.NO)
        if self._note_stop(record):
            self._guests.destroy(record.name)
            self._guests.undefine(record.name)
        self._manager.release(record.name)
        self._services.originals.forget(record.uuid)

    def _withdraw(self, name: str, before: Lease | None) -> None:
        """Release an instance, but keep the lease that it had before."""
        services = self._services
        with services.store.lock(name):
            restore = partial(services.allocator.restore_lease, before=before)
            services.releaser.release(name, restore)

    def _note_stop(self, record: InstanceRecord) -> bool:
        """Note that it is stopped; return whether libvirt knows it."""
        guest = self._services.instances.find_guest(record)
        if guest is not None and guest.controller is not None:
            traces = self._services.traces
            # libvirt notices an end late, and now and then never.
            has_ended = traces.read(record.name).is_end_of(guest.controller)
            run = None if has_ended else guest.controller
            traces.note_stop(record.name, run)
        return guest is not None

    def _start_again(
        self,
        name: str,
        progress: Progress | None,
        accept_replaced: bool = False,
    ) -> VerifiedInstance:
        with ExitStack() as stack:
            preview.check_networks(
                self._services, name, self._guests.xml(name)
            )
            self._manager.prepare(
                name, progress, accept_replaced=accept_replaced
            )
            undo(stack, self._manager.unmount, name)
            found = self._start(name, stack)
        self._units.follow(name)
        return found

    @contextmanager
    def _locked(self, name: str) -> Iterator[InstanceRecord]:
        self._record(name)  # No lock for what is not there.
        with self._services.store.lock_container(name):
            yield self._record(name)

    def _finish(self, record: InstanceRecord) -> VerifiedInstance:
        """Finish the start of a container that runs unverified, or end it."""
        name = record.name
        started = is_just_started(record)
        with ExitStack() as stack:
            if started:
                undo(stack, self._manager.unmount, name)
                undo(stack, self._guests.destroy, name)
            try:
                return self._manager.verify(name, started=started)
            except IsolationError:  # It was destroyed.
                undo(stack, self._manager.unmount, name)
                raise

    def _start(self, name: str, stack: ExitStack) -> VerifiedInstance:
        # Registered first: a start that libvirt gave up on can leave it half
        # running.
        undo(stack, self._guests.destroy, name)
        with self._services.traces.watched(name) as watch:
            steps.log(name, preview.START)
            try:
                # libvirt names every container, also one that shares the
                # host's name.
                with hostname.preserve():
                    self._guests.start(name)
                steps.log(name, preview.VERIFY)
                return self._manager.verify(name, started=True)
            except NotRunningError as err:
                raise ended_at_once(name, watch.wait()) from err
            except IsolationError:
                raise
            except (InstanceError, LibvirtError) as err:
                # libvirt's process for it may be there for a while after it,
                # and libvirt's hook, if it is installed, fails without it.
                trace = watch.wait()
                if trace.status in (None, signal.SIGKILL):
                    raise
                raise ended_at_once(name, trace) from err

    def _record(self, name: str) -> InstanceRecord:
        record = self._services.instances.load(name)
        if record is not None:
            return record
        if self._guests.find(name) is None:
            raise NoSuchContainerError(name)
        raise InstanceError(
            name,
            "libvirt has a domain of this name that others have made; start, "
            "stop and undefine it by what made it",
        )
