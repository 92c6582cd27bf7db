# SPDX-License-Identifier: Apache-2.0
"""A compute driver, of a service that is root or is not.

usage: python -m tests.functional.compute_driver CONFIG VERBS IMAGE

``VERBS`` is ``manager`` or ``privileged``; nothing else differs. Takes an
instance through its life, writes in JSON who did that and what was verified.
"""

import json
import os
import sys
import uuid
from dataclasses import asdict
from typing import Any

import libvirt
from oslo_config import cfg

from lxc_userns import (
    InstanceRequest,
    PreparedInstance,
    UserNamespaceManager,
    privileged,
    register_opts,
)

DOMAIN = """\
<domain type='lxc'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <devices><console type='pty'/></devices>
</domain>
"""


class Driver:
    """Driver of libvirt's containers.

    :param verbs: a manager, or the module ``lxc_userns.privileged``.
    """

    def __init__(self, verbs: Any) -> None:
        self._verbs = verbs
        self._libvirt = libvirt.open("lxc:///")

    def spawn(self, name: str, image: str) -> dict[str, Any]:
        """Make an instance and start it."""
        request = InstanceRequest(
            name, str(uuid.uuid4()), image, rootfs_kind="image"
        )
        prepared = self._verbs.prepare(request)
        self._libvirt.defineXML(prepared.apply_to(DOMAIN.format(name=name)))
        return self._start(prepared)

    def start(self, name: str) -> dict[str, Any]:
        """Start an instance again."""
        return self._start(self._verbs.prepare(name))

    def _start(self, prepared: PreparedInstance) -> dict[str, Any]:
        self._libvirt.lookupByName(prepared.name).create()
        return asdict(self._verbs.verify(prepared, started=True))

    def verify(self, name: str) -> dict[str, Any]:
        """Look at an instance that runs."""
        return asdict(self._verbs.verify(name, started=False))

    def stop(self, name: str) -> None:
        """Stop an instance."""
        self._libvirt.lookupByName(name).destroy()
        self._verbs.unmount(name)

    def delete(self, name: str) -> None:
        """Forget an instance that is stopped."""
        self._libvirt.lookupByName(name).undefine()
        self._verbs.release(name)


def main() -> None:
    """Take an instance through its life."""
    config, verbs, image = sys.argv[1:]
    register_opts(cfg.CONF)
    cfg.CONF(["--config-file", config], project="service")
    is_root = verbs == "manager"
    driver = Driver(UserNamespaceManager(cfg.CONF) if is_root else privileged)
    verified = [driver.spawn("web1", image), driver.verify("web1")]
    driver.stop("web1")
    verified.append(driver.start("web1"))
    driver.stop("web1")
    driver.delete("web1")
    json.dump({"uid": os.getuid(), "verified": verified}, sys.stdout)


if __name__ == "__main__":
    main()
