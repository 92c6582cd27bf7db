# SPDX-License-Identifier: Apache-2.0
"""Domains as a hook can know them: by its input and the kernel.

libvirtd waits for the hook and answers no one, so that any question to it
would never end (https://libvirt.org/hooks.html).
"""

from __future__ import annotations

from lxc_userns.exceptions import NoSuchContainerError
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains


class HookGuests(Guests):
    """Domains of this host, without libvirtd.

    :param name: name of the domain that the hook is called for.
    :param uuid: its UUID.
    :param xml: its XML, as libvirt gave it.
    """

    def __init__(self, name: str, uuid: str, xml: str) -> None:
        super().__init__()
        self._name = name
        self._uuid = uuid
        self._xml = xml
        self._running = RunningDomains()

    def xml(self, name: str) -> str:
        """Return the XML of the domain that the hook is called for."""
        if name != self._name:
            raise NoSuchContainerError(name)
        return self._xml

    def find(self, name: str) -> Guest | None:
        """Return the running domain of a name."""
        found = self._running.find(name)
        return None if found is None else self._describe(found)

    def list(self) -> list[Guest]:
        """Return all running domains."""
        return [self._describe(each) for each in self._running.list()]

    def has_missed_end(self, name: str) -> bool:
        """Return False: the kernel misses no end."""
        return False

    def destroy(self, name: str, uuid: str | None = None) -> None:
        """Do nothing: libvirt does it once the hook has failed."""

    def _describe(self, found: RunningDomain) -> Guest:
        # While it starts, nothing but the hook's input tells it.
        ours = self._uuid if found.name == self._name else ""
        uuid = found.uuid or ours
        return Guest(found.name, uuid, "running", found.controller)

    def _connect(self) -> object:
        raise RuntimeError("a hook must not ask libvirtd")
