# SPDX-License-Identifier: Apache-2.0
"""Driver of a compute service: containers by a libvirt of its own."""

from typing import Any

import libvirt
from oslo_config import cfg

import lxc_userns


class Driver:
    """Spawns, verifies, stops, starts and deletes containers."""

    def __init__(self, verbs: Any, libvirt_connection: Any) -> None:
        self._verbs, self._libvirt = verbs, libvirt_connection

    def spawn(self, request: lxc_userns.InstanceRequest, xml: str) -> None:
        """Make an instance and start it; if that fails it is gone."""
        prepared = self._verbs.prepare(request)
        try:
            self._libvirt.defineXML(prepared.apply_to(xml))
            self._run(prepared)
        except Exception:
            # Refused if it runs, for another call has started it.
            self._verbs.release(request.name)
            self.delete(request.name)
            raise

    def _run(self, prepared: lxc_userns.PreparedInstance) -> None:
        self._libvirt.lookupByName(prepared.name).create()
        self._verbs.verify(prepared, started=True)

    def verify(self, name: str) -> None:
        """Look at one that runs; what is not as promised is destroyed."""
        self._verbs.verify(name, started=False)

    def stop(self, name: str) -> None:
        """Stop an instance; what it has stays."""
        domain = self._libvirt.lookupByName(name)
        if domain.isActive():
            domain.destroy()
        self._verbs.unmount(name)

    def start(self, name: str) -> None:
        """Start one that was stopped, also by a reboot of the host."""
        prepared = self._verbs.prepare(name)
        try:
            self._run(prepared)
        except Exception:
            self._verbs.unmount(name)  # Refused in the same way.
            raise

    def delete(self, name: str) -> None:
        """Delete an instance in whatever state; it can be repeated."""
        for domain in self._libvirt.listAllDomains():
            if domain.name() == name:
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
        self._verbs.release(name)


def make_driver(config: str) -> Driver:
    """Make the driver of a service that is root, by a configuration file."""
    conf = cfg.ConfigOpts()
    lxc_userns.register_opts(conf)
    conf([], default_config_files=[config])
    manager = lxc_userns.UserNamespaceManager(conf)
    return Driver(manager, libvirt.open("lxc:///"))
