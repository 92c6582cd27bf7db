# SPDX-License-Identifier: Apache-2.0
"""Snapshots of one moment: containers that are paused while they are copied.

For an image with ``os_require_quiesce``, a property of Nova's. Its filesystem
is not frozen (FIFREEZE): that does not end with who began it, and each process
that writes meanwhile can be neither ended nor killed. One that is paused can
be stopped and deleted at any time, and goes on when it is resumed, by whom it
may be. What was paused by a process that was killed, the next one resumes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

import libvirt
import nova.conf
from nova import exception
from nova.compute import power_state
from nova.virt import driver
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from lxc_userns import privileged
from lxc_userns.linux import cgroups
from lxc_userns.nova import errors

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: In the directory of an instance while it is paused for a snapshot.
_NAME: Final = "paused-for-snapshot"


class Snapshots(driver.ComputeDriver):  # type: ignore[misc]
    """Snapshots of containers, for Nova's driver."""

    _host: Any

    def snapshot(self, context: Any, instance: Any, *args: Any) -> None:
        """Copy the disk of an instance, paused if that is required of it."""
        try:
            super().snapshot(context, instance, *args)
        finally:
            end(self._host, instance)

    def _suspend_guest_for_snapshot(
        self, context: Any, _live: Any, _state: Any, instance: Any
    ) -> None:
        self.quiesce(context, instance, None)

    def _resume_guest_after_snapshot(self, *args: Any) -> None:
        context, _, _, instance, _ = args
        self.unquiesce(context, instance, None)

    def quiesce(self, _context: Any, instance: Any, _image_meta: Any) -> None:
        """Write what is to be on an instance's disk, before it is copied.

        Nova calls this where the disk is a volume, which others copy.

        :raises nova.exception.NovaException: if the instance has to be
            paused for that, and cannot be.
        """
        begin(self._host, instance)
        try:
            with errors.as_novas(instance):
                privileged.sync(instance.name)
        except BaseException:
            end(self._host, instance)
            raise

    def unquiesce(
        self, _context: Any, instance: Any, _image_meta: Any
    ) -> None:
        """Let an instance go on that was paused for a copy."""
        end(self._host, instance)


def is_required(instance: Any) -> bool:
    """Return whether snapshots of an instance have to be of one moment."""
    properties = instance.image_meta.properties
    return bool(properties.get("os_require_quiesce", False))


def begin(host: Any, instance: Any) -> None:
    """Pause an instance that runs, if its snapshots are of one moment.

    :param host: Nova's ``Host`` of libvirt.
    :raises nova.exception.NovaException: if libvirt cannot on this host.
    """
    guest = host.get_guest(instance)
    if not is_required(instance) or not _is(guest, host, power_state.RUNNING):
        return
    if not cgroups.can_freeze():
        raise exception.NovaException(
            f"{instance.name}: its image has os_require_quiesce, and libvirt "
            "cannot pause containers on this host; stop it before"
        )
    # Before: what is paused without it would stay so after a crash.
    with open(_marker(instance), "wb"):
        pass
    guest.pause()


def end(host: Any, instance: Any) -> None:
    """Resume an instance that :func:`begin` has paused; safe to repeat.

    :param host: as for :func:`begin`.
    """
    if os.path.exists(_marker(instance)):
        with suppress(exception.InstanceNotFound):
            _resume(host, host.get_guest(instance), _marker(instance))


def recover(host: Any) -> None:
    """Resume all that were paused by a service that has ended.

    :param host: as for :func:`begin`.
    """
    for guest in host.list_guests():
        marker = os.path.join(CONF.instances_path, guest.uuid, _NAME)
        if os.path.exists(marker):
            LOG.warning("%s: is resumed after a snapshot", guest.name)
            # One alone is no reason to run none; the next start tries again.
            try:
                _resume(host, guest, marker)
            except (libvirt.libvirtError, exception.NovaException) as err:
                LOG.error("%s: is still paused: %s", guest.name, err)


def _resume(host: Any, guest: Any, marker: str) -> None:
    if _is(guest, host, power_state.PAUSED):
        guest.resume()
    with suppress(FileNotFoundError):
        os.unlink(marker)


def _is(guest: Any, host: Any, state: int) -> bool:
    return bool(guest.get_power_state(host) == state)


def _marker(instance: Any) -> str:
    return os.path.join(libvirt_utils.get_instance_path(instance), _NAME)
