# SPDX-License-Identifier: Apache-2.0
"""Calls of libvirt's hook for a domain that may be ours."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import unified_diff
from functools import partial

from lxc_userns import commands, domain
from lxc_userns.config.settings import Settings
from lxc_userns.config.snapshot import load_settings
from lxc_userns.domain import Marker, read_marker, read_uuid
from lxc_userns.exceptions import (
    InstanceError,
    IsolationError,
    LxcUsernsError,
)
from lxc_userns.hook.guests import HookGuests
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.linux import journal, locks
from lxc_userns.services import Services
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.rootfs_kind import parse_kind
from lxc_userns.text import one_line

#: Characters of a message about XML.
_LONGEST = 200
#: Seconds to wait for a lock before views are left mounted: libvirt goes on
#: whatever comes of it, and has most often waited for the same lock before.
_RELEASE_TIMEOUT = 0.5


def call(
    name: str, operation: str, xml: bytes, files: list[str] | None
) -> int:
    """Do what a domain needs at one step.

    :param name: name of the domain.
    :param operation: name of the step, as libvirt calls it.
    :param xml: its XML, as it runs or is to run.
    :param files: configuration files instead of the usual ones.
    :returns: exit code: 1 if libvirt is to go no further; the reason is on
        standard error, where virsh shows it.
    """
    logger = _start_logging(name, operation)
    try:
        with commands.configured_by(files or ()):
            _serve(name, operation, xml.decode(), load_settings(files))
    except Exception as err:
        text = str(err) or type(err).__name__
        notes = getattr(err, "__notes__", ())
        line = one_line("; ".join((text, *notes)))
        sys.stderr.write(f"lxc-userns: {line}\n")
        if logger is not None:
            logger.error(line)
        # What runs is ended for a difference, and for nothing else.
        return int(operation != "reconnect" or isinstance(err, IsolationError))
    return 0


def _serve(name: str, operation: str, xml: str, settings: Settings) -> None:
    """Do what a domain needs, if it is ours."""
    marker = read_marker(xml)
    if marker is not None:
        with locks.time_limit(settings.hook_timeout):
            _Call.of(name, xml, marker, settings).run(operation)
    elif operation == "prepare":
        _check_unmarked(name, xml, settings)


def keep(files: list[str] | None) -> None:
    """Leave a keeper behind for the next calls, if that is configured.

    :param files: as for :func:`call`.
    """
    # It is for speed alone: whatever is wrong was told, or will be.
    with suppress(LxcUsernsError, OSError):
        settings = load_settings(files)
        if settings.hook_linger:
            from lxc_userns.hook import keeper

            sys.stderr.flush()
            keeper.start(settings)


def _start_logging(name: str, operation: str) -> logging.Logger | None:
    """Log to the journal, where there is one.

    libvirt shows standard error for a call that fails, and for no other.

    :returns: what logs to the journal.
    """
    if not os.path.exists(journal.SOCKET):
        return None
    logger = logging.getLogger("lxc_userns")
    logger.setLevel(logging.INFO)
    logger.addHandler(
        journal.JournalHandler(
            "lxc-userns-hook", instance=name, operation=operation
        )
    )
    return logger


@dataclass(frozen=True, slots=True)
class _Call:
    """Call for a domain that carries our mark.

    :param name: name of the domain.
    :param uuid: its UUID.
    :param xml: its XML.
    :param marker: its mark.
    :param services: services of this host, which do not ask libvirtd.
    """

    name: str
    uuid: str
    xml: str
    marker: Marker
    services: Services

    @classmethod
    def of(
        cls, name: str, xml: str, marker: Marker, settings: Settings
    ) -> _Call:
        """Return the call for a domain."""
        uuid = read_uuid(xml)
        services = Services(settings, HookGuests(name, uuid, xml))
        return cls(name, uuid, xml, marker, services)

    def run(self, operation: str) -> None:
        """Do what the domain needs at a step.

        :raises LxcUsernsError: if libvirt is to go no further; at reconnect
            an IsolationError alone.
        """
        if operation == "prepare":
            self._prepare()
        elif operation == "started":
            self.services.traces.begin_unwatched(self.name)
            self._verify(is_new=True)
        elif operation == "reconnect":
            self._verify(is_new=False)
        elif operation == "release":
            with locks.time_limit(_RELEASE_TIMEOUT):
                self._unmount()

    def _prepare(self) -> None:
        """Prepare the domain, and compare its XML with the promise.

        Not the other way round: how a new one is prepared depends on trying
        it. What a refused start leaves is unmounted at its release.
        """
        prepared = PreparedInstance(self._prepared())
        # Its mark may be of before, and is taken for nothing here.
        parts = replace(prepared.parts, marker=self.marker)
        if domain.is_cleared(self.xml):
            # Once started it is verified by the kernel's word for it.
            parts = replace(parts, security_model=None)
        wanted = domain.apply(self.xml, parts)
        if wanted != self.xml:
            raise InstanceError(
                self.name,
                f"its XML lacks {_missing(self.xml, wanted)}, which it was "
                f"promised; run: {commands.conversion(self.name)}",
            )

    def _prepared(self) -> InstanceRecord:
        planner = self.services.planner
        record = self.services.store.load(self.name)
        if record is not None and record.uuid == self.uuid:
            planner.check_again(record)
            wanted, complete = record, None
        else:
            request = self._request()
            wanted = planner.plan(request)
            complete = partial(planner.assign_id_maps, request)
        preparation = self.services.preparation(None, is_bounded=True)
        return preparation.run(wanted, complete)

    def _request(self) -> InstanceRequest:
        """Return the request that the mark stands for.

        What else of the host the XML gives the container was not promised by
        anybody: it is asked for by "domain prepare".

        :raises InstanceError: if it had another name.
        """
        self.services.instances.check_name_kept(self.name, self.uuid)
        kind = self.marker.rootfs_kind
        return InstanceRequest(
            self.name,
            self.uuid,
            self.marker.rootfs,
            strategy=self.marker.strategy,
            volumes=self.marker.volumes,
            rootfs_kind=None if kind is None else parse_kind(kind),
        )

    def _verify(self, *, is_new: bool) -> None:
        """Verify the domain.

        :param is_new: whether it has just been started.
        :raises IsolationError: if it differs, or was never verified and
            cannot be looked at.
        """
        record = self.services.store.load(self.name)
        if record is None or record.uuid != self.uuid:
            raise IsolationError(
                self.name, "it was not prepared; start it again"
            )
        started = is_new or record.verified is None
        self.services.verifier.verify(record, started=started)

    def _unmount(self) -> None:
        """Unmount the views; libvirt takes no notice of an error."""
        with self.services.store.lock(self.name):
            self.services.releaser.unmount(self.name)


def _missing(xml: str, wanted: str) -> str:
    """Return what a text lacks of another, in one line."""
    lines = unified_diff(xml.split("\n"), wanted.split("\n"), n=0, lineterm="")
    added = [line[1:].strip() for line in [*lines][2:] if line[0] == "+"]
    return " ".join(added)[:_LONGEST] or "something"


def _check_unmarked(name: str, xml: str, settings: Settings) -> None:
    """Refuse a domain whose root is the host's, if that is configured."""
    if settings.unmarked_domains == "refuse" and not domain.maps_root(xml):
        raise LxcUsernsError(
            f"{name}: its root would be the host's root, as it has no <idmap> "
            "or one to host ID 0, and [lxc_userns] unmarked_domains refuses "
            f"that; run: {commands.conversion(name)}"
        )
