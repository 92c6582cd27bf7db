# SPDX-License-Identifier: Apache-2.0
"""Verifier: looks at running containers, and ends those that differ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from lxc_userns.domain.limits import read_limits
from lxc_userns.exceptions import (
    InspectionError,
    InstanceError,
    IsolationError,
    LibvirtError,
    NotRunningError,
)
from lxc_userns.linux import journal
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.spec.hostname import of_container
from lxc_userns.verification import (
    Expectation,
    VerifiedInstance,
    describe,
    expected,
)
from lxc_userns.verification.inspector import Inspector

if TYPE_CHECKING:
    from lxc_userns.instances.failures import Failures
    from lxc_userns.instances.instances import Instances
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.instances.verified import Verified
    from lxc_userns.linux.process import Process

_LOG = logging.getLogger(__name__)

#: How often to look for the first process of one that reboots, and how many
#: seconds to wait in between.
_ATTEMPTS, _PAUSE = 10, 0.2
_LEFT = "it was left as it is"


@dataclass(frozen=True, slots=True)
class Verifier:
    """Looks at the running containers of a host.

    :param instances: what there is on the host.
    :param failures: counts those that differ, or cannot be looked at.
    :param inspector: how they are looked at.
    """

    instances: Instances
    failures: Failures
    inspector: Inspector = field(default_factory=Inspector)

    def verify(
        self, record: InstanceRecord, *, started: bool
    ) -> VerifiedInstance:
        """Compare an instance of ours with what it was promised.

        What it could use up or change of what is not its own is taken from
        it before, and its record says afterwards that this start of it was
        verified.

        :param started: whether it has just been started: nothing may be
            missing then, and whatever keeps it from being looked at ends it.
            Later only a difference does.
        :raises IsolationError: if it differs, or has just been started and
            cannot be looked at; it is destroyed then.
        :raises InspectionError: if it was started before and cannot be looked
            at; it runs on then.
        :raises NotRunningError: if it is not running.
        """
        with self.failures.counting():
            return self._verify(record, started)

    def _verify(
        self, record: InstanceRecord, started: bool
    ) -> VerifiedInstance:
        try:
            return self._verify_soon(record, started)
        except NotRunningError as err:
            # Nothing is to be destroyed, unless libvirt has missed its end.
            if started:
                self._destroy_for(record, err)
            raise
        except Exception as err:
            self._fail_closed(record, err, started)
        except BaseException as err:
            if started:  # An interrupt is no reason to let it run.
                self._destroy_for(record, err)
            raise

    def report(
        self, record: InstanceRecord, *, started: bool
    ) -> VerifiedInstance:
        """Compare an instance of ours as :meth:`verify`, and change nothing.

        :raises IsolationError: if it differs; it is left as it is.
        :raises InspectionError: if it cannot be looked at.
        :raises NotRunningError: if it is not running.
        """
        if not self._is_active(record):
            raise NotRunningError(record.name)
        xml = self.instances.guests.xml(record.name)
        expectation = self._expect(record, xml, started)
        found, mark = self._compare(
            expectation, xml, _LEFT, record.max_processes, started=started
        )
        is_known = mark.is_same_start(record.verified)
        return replace(found, was_verified=is_known)

    def verify_foreign(self, name: str) -> VerifiedInstance:
        """Compare a container of others with its XML; it is left alone.

        :param name: name of a running domain.
        :raises NoSuchContainerError: if there is none of this name.
        :raises NotRunningError: if it is not running.
        :raises InspectionError: if it cannot be looked at.
        :raises IsolationError: if it differs.
        :raises DomainXmlError: if its XML has something, as ID maps, that
            breaks a rule of this package.
        """
        xml = self.instances.guests.xml(name)
        left = "it is not ours, and was left"
        expectation = expected.of_domain(xml)
        return self._compare(expectation, xml, left, started=True)[0]

    def _verify_soon(
        self, record: InstanceRecord, started: bool
    ) -> VerifiedInstance:
        """Verify a container, waiting for one that reboots."""
        for attempt in range(_ATTEMPTS):
            if not self._is_active(record):
                break
            try:
                found, mark = self._verify_once(record, started)
            except (ProcessLookupError, FileNotFoundError):
                # It is about to end, or to start again after a reboot.
                if attempt == _ATTEMPTS - 1:
                    raise
                self.inspector.sleep(_PAUSE)
            else:
                return replace(found, was_verified=self._note(record, mark))
        raise NotRunningError(record.name)

    def _note(self, record: InstanceRecord, mark: Verified) -> bool:
        """Record that a start was verified; tell whether that was known."""
        store = self.instances.store
        with store.lock(record.name):
            kept = store.load(record.name)
            if kept is None or kept.uuid != record.uuid:
                return False  # It was released meanwhile.
            if mark.is_same_start(kept.verified):
                store.note_verified(record.name)
                return True
            store.save(replace(kept, verified=mark))
            return False

    def _verify_once(
        self, record: InstanceRecord, started: bool
    ) -> tuple[VerifiedInstance, Verified]:
        xml = self.instances.guests.xml(record.name)
        expectation = self._expect(record, xml, started)
        wanted = read_limits(xml)
        with (
            self.instances.guests.init_process(record.name) as init,
            _blaming_it(record.name),
        ):
            found = self.inspector.observe(record.name, init)
            if found.writable and record.id_maps is not None:
                self._revoke(record, init)
                found = self.inspector.observe(record.name, init)
            reasons = [
                *self.inspector.compare(expectation, found, started=started),
                *self.inspector.enforce(
                    record.name, init, wanted, record.max_processes
                ),
            ]
            if reasons:
                raise IsolationError(record.name, "; ".join(reasons))
            # Not before: in another user namespace it would be others that
            # are limited.
            if record.id_maps is not None:
                self.inspector.limit(init)
            mark = self.inspector.mark(init)
            # Its own root may choose another, later.
            if not mark.is_same_start(record.verified):
                self._name(record, init)
        return describe(expectation, found), mark

    def _revoke(self, record: InstanceRecord, init: Process) -> None:
        if paths := [*self.inspector.revoke(init)]:
            _LOG.info(
                "%s: %d files of its control groups are root's again, as %s",
                record.name,
                len(paths),
                paths[0],
                extra={journal.INSTANCE: record.name},
            )

    def _expect(
        self, record: InstanceRecord, xml: str, started: bool
    ) -> Expectation:
        places = None
        # Later, where they are is the affair of its root.
        if started and record.volumes:
            # In its views on the host: nothing is looked up in it.
            places = self.instances.files.follow_targets(record)
        return expected.of_record(record, xml, places)

    def _name(self, record: InstanceRecord, init: Process) -> None:
        """Give a container its host name, if libvirt gave it another."""
        name = record.hostname
        is_shared = "uts" in record.needs.host_namespaces
        if name and not is_shared and name != of_container(record.name):
            self.inspector.name(init, name)

    def _compare(
        self,
        expectation: Expectation,
        xml: str,
        left: str,
        max_processes: int = 0,
        *,
        started: bool,
    ) -> tuple[VerifiedInstance, Verified]:
        """Compare a container, and change nothing.

        :param left: what is said to have been done to one that differs.
        """
        name, wanted = expectation.name, read_limits(xml)
        try:
            with (
                self.instances.guests.init_process(name) as init,
                _blaming_it(name),
            ):
                found = self.inspector.observe(name, init)
                reasons = [
                    *self.inspector.compare(
                        expectation, found, started=started
                    ),
                    *self.inspector.differences(
                        name, init, wanted, max_processes
                    ),
                ]
                mark = self.inspector.mark(init)
        except IsolationError as err:
            raise IsolationError(name, f"{err.reason}; {left}") from err
        except NotRunningError:
            raise
        except (OSError, InstanceError) as err:
            raise InspectionError(name, _reason(err)) from err
        if reasons:
            raise IsolationError(name, f"{'; '.join(reasons)}; {left}")
        return describe(expectation, found), mark

    def _fail_closed(
        self, record: InstanceRecord, err: Exception, started: bool
    ) -> NoReturn:
        """End what differs, and what was not looked at since its start."""
        if not self._may_run(record):
            raise NotRunningError(record.name) from err
        if started or isinstance(err, IsolationError):
            self._destroy_for(record, err)
            text = f"{_reason(err)}; it was destroyed"
            raise IsolationError(record.name, text) from err
        raise InspectionError(record.name, _reason(err)) from err

    def _may_run(self, record: InstanceRecord) -> bool:
        try:
            return self._is_active(record)
        except LibvirtError:
            return True

    def _is_active(self, record: InstanceRecord) -> bool:
        """Return whether it runs or reboots, by libvirtd: no lock is held."""
        guest = self.instances.find_guest(record)
        if guest is None or not guest.is_active:
            return False
        return not self.instances.guests.has_missed_end(record.name)

    def _destroy_for(
        self, record: InstanceRecord, cause: BaseException
    ) -> None:
        try:
            self.instances.guests.destroy(record.name, record.uuid)
        except Exception as err:
            why = _reason(cause)
            err.add_note(f"{record.name} is not as promised: {why}")
            raise err from cause


@contextmanager
def _blaming_it(name: str) -> Iterator[None]:
    """Take too much of something for a difference: a container makes that.

    Else one could keep itself from ever being verified.
    """
    try:
        yield
    except BoundExceededError as err:
        raise IsolationError(name, str(err)) from err


def _reason(err: BaseException) -> str:
    return getattr(err, "reason", "") or str(err) or type(err).__name__
