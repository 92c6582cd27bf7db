# SPDX-License-Identifier: Apache-2.0
"""Who looks at running containers, and ends those that are not as promised."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NoReturn

from lxc_userns import limits, promises, verification
from lxc_userns.exceptions import InstanceError, IsolationError
from lxc_userns.instances import InstanceRecord
from lxc_userns.inventory import Inventory
from lxc_userns.verification import VerifiedInstance

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verifier:
    """Looks at the running containers of a host.

    :param inventory: what there is on the host.
    """

    inventory: Inventory

    def verify(self, record: InstanceRecord) -> VerifiedInstance:
        """Compare an instance of ours with what it was promised.

        What it could use up or change of what is not its own is taken from
        it before.

        :raises IsolationError: if it differs, or cannot be looked at; it is
            destroyed then.
        :raises InstanceError: if it is not running.
        """
        if not self.inventory.is_active(record):
            raise InstanceError(record.name, "is not running")
        promise = promises.of_record(record)
        try:
            with self.inventory.guests.init_process(record.name) as init:
                if record.id_maps is not None:
                    for path in verification.take_back(init):
                        _LOG.info("%s: %s is root's", record.name, path)
                evidence = verification.gather(record.name, init)
                reasons = [*verification.mismatches(promise, evidence)]
                if record.id_maps is not None and not reasons:
                    limits.apply(init)
        except (InstanceError, OSError) as err:
            if not self.inventory.is_active(record):
                raise InstanceError(record.name, "is not running") from err
            self._destroy(record, [str(err)])
        if reasons:
            self._destroy(record, reasons)
        return verification.describe(promise, evidence)

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
        promise = promises.of_domain(guests.xml(name))
        try:
            with guests.init_process(name) as init:
                evidence = verification.gather(name, init)
        except OSError as err:
            raise InstanceError(name, f"cannot be looked at: {err}") from err
        reasons = [*verification.mismatches(promise, evidence)]
        if reasons:
            raise IsolationError(
                name, f"{'; '.join(reasons)}; it is not ours, and was left"
            )
        return verification.describe(promise, evidence)

    def _destroy(self, record: InstanceRecord, reasons: list[str]) -> NoReturn:
        text = "; ".join(reasons)
        try:
            self.inventory.guests.destroy(record.name)
        except Exception as err:
            err.add_note(f"{record.name} is not as promised: {text}")
            raise
        raise IsolationError(record.name, f"{text}; it was destroyed")
