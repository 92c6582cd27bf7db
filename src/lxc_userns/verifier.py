# SPDX-License-Identifier: Apache-2.0
"""Who looks at running containers, and ends those that are not as promised."""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass, replace
from typing import NoReturn

from lxc_userns import limits, promises, resources, verification
from lxc_userns.domain.limits import read_limits
from lxc_userns.exceptions import InstanceError, IsolationError
from lxc_userns.instances import InstanceRecord
from lxc_userns.inventory import Inventory
from lxc_userns.verification import VerifiedInstance
from lxc_userns.verified import Verified

_LOG = logging.getLogger(__name__)

#: What is no container's fault.
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
#: How often to look for the first process of one that reboots, and how many
#: seconds to wait in between.
_ATTEMPTS, _PAUSE = 10, 0.2


@dataclass(frozen=True, slots=True)
class Verifier:
    """Looks at the running containers of a host.

    :param inventory: what there is on the host.
    """

    inventory: Inventory

    def verify(
        self, record: InstanceRecord, *, fresh: bool = False
    ) -> VerifiedInstance:
        """Compare an instance of ours with what it was promised.

        What it could use up or change of what is not its own is taken from
        it before, and its record says afterwards that this start of it was
        verified.

        :param fresh: whether it has just been started.
        :raises IsolationError: if it differs, or cannot be looked at; it is
            destroyed then.
        :raises InstanceError: if it is not running, or this host is short of
            what is needed to look at it.
        :raises ConfigError: if the state path cannot be written.
        """
        found, mark = self._verify_soon(record, fresh)
        return replace(found, was_verified=self._note(record, mark))

    def _verify_soon(
        self, record: InstanceRecord, fresh: bool
    ) -> tuple[VerifiedInstance, Verified]:
        """Verify a container, waiting for one that reboots."""
        for attempt in range(_ATTEMPTS):
            if not self.inventory.is_active(record):
                break
            try:
                return self._verify_once(record, fresh)
            except (ProcessLookupError, FileNotFoundError) as err:
                # It is about to end, or to start again after a reboot.
                if attempt == _ATTEMPTS - 1:
                    self._destroy(record, str(err), err)
                time.sleep(_PAUSE)
            except Exception as err:
                self._judge(record, err)
        raise InstanceError(record.name, "is not running")

    def _note(self, record: InstanceRecord, mark: Verified) -> bool:
        """Record that a start was verified; tell whether that was known."""
        store = self.inventory.store
        with store.lock(record.name):
            kept = store.load(record.name)
            if kept is None or kept.uuid != record.uuid:
                return False  # It was released meanwhile.
            if mark.is_same_start(kept.verified):
                return True
            store.save(replace(kept, verified=mark))
            return False

    def _verify_once(
        self, record: InstanceRecord, fresh: bool
    ) -> tuple[VerifiedInstance, Verified]:
        promise = promises.of_record(record)
        wanted = read_limits(self.inventory.guests.xml(record.name))
        with self.inventory.guests.init_process(record.name) as init:
            if record.id_maps is not None:
                for path in verification.take_back(init):
                    _LOG.info("%s: %s is root's", record.name, path)
            found = verification.gather(record.name, init)
            reasons = [
                *verification.mismatches(promise, found, fresh=fresh),
                *resources.enforce(
                    record.name, init, wanted, record.max_processes
                ),
            ]
            if reasons:
                raise IsolationError(record.name, "; ".join(reasons))
            # Not before: in another user namespace it would be others that
            # are limited.
            if record.id_maps is not None:
                limits.apply(init)
            mark = Verified.now(init)
        return verification.describe(promise, found), mark

    def _judge(self, record: InstanceRecord, err: Exception) -> None:
        """End what cannot be verified, by whatever it has brought about.

        :raises Exception: unless it has ended by itself.
        """
        if isinstance(err, OSError) and err.errno in _SHORTAGES:
            reason = f"cannot be looked at: {err}"
            raise InstanceError(record.name, reason) from err
        if self.inventory.is_active(record):
            reason = getattr(err, "reason", str(err) or type(err).__name__)
            self._destroy(record, reason, err)

    def verify_foreign(self, name: str) -> VerifiedInstance:
        """Compare a container of others with its XML; it is left alone.

        :param name: name of a running domain.
        :raises NoSuchContainerError: if there is none of this name.
        :raises InstanceError: if it is not running, or cannot be looked at.
        :raises IsolationError: if it differs.
        :raises DomainXmlError: if its XML has something, as ID maps, that
            breaks a rule of this package.
        """
        guests = self.inventory.guests
        xml = guests.xml(name)
        promise, wanted = promises.of_domain(xml), read_limits(xml)
        try:
            with guests.init_process(name) as init:
                evidence = verification.gather(name, init)
                found = resources.differences(name, init, wanted)
        except OSError as err:
            raise InstanceError(name, f"cannot be looked at: {err}") from err
        reasons = [
            *verification.mismatches(promise, evidence, fresh=True),
            *found,
        ]
        if reasons:
            raise IsolationError(
                name, f"{'; '.join(reasons)}; it is not ours, and was left"
            )
        return verification.describe(promise, evidence)

    def _destroy(
        self, record: InstanceRecord, reason: str, cause: Exception | None
    ) -> NoReturn:
        try:
            self.inventory.guests.destroy(record.name, record.uuid)
        except Exception as err:
            err.add_note(f"{record.name} is not as promised: {reason}")
            raise
        text = f"{reason}; it was destroyed"
        raise IsolationError(record.name, text) from cause
