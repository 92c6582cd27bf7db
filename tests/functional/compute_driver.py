# SPDX-License-Identifier: Apache-2.0
"""The driver of the documentation, in a service that is root or is not.

usage: python -m tests.functional.compute_driver CONFIG VERBS IMAGE

``VERBS`` is ``manager`` or ``privileged``; nothing else differs. Takes an
instance through its life, writes in JSON who did that and what was verified.
"""

import json
import os
import sys
from dataclasses import asdict

import libvirt
from oslo_config import cfg

from examples.driver import Driver
from lxc_userns import (
    InstanceRequest,
    UserNamespaceManager,
    privileged,
    register_opts,
)

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
DOMAIN = """\
<domain type='lxc'>
  <name>web1</name>
  <memory unit='MiB'>64</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <devices><console type='pty'/></devices>
</domain>
"""


def main() -> None:
    """Take an instance through its life."""
    config, chosen, image = sys.argv[1:]
    register_opts(cfg.CONF)
    cfg.CONF(["--config-file", config], project="service")
    manager = UserNamespaceManager(cfg.CONF)
    verbs = manager if chosen == "manager" else privileged
    driver = Driver(verbs, libvirt.open("lxc:///"))
    request = InstanceRequest("web1", UUID, image, rootfs_kind="image")
    driver.spawn(request, DOMAIN)
    strategy = verbs.prepare("web1").record.strategy
    verified = [asdict(verbs.verify("web1", started=False))]
    driver.stop("web1")
    driver.start("web1")
    driver.verify("web1")
    verified.append(asdict(verbs.verify("web1", started=False)))
    driver.stop("web1")
    driver.delete("web1")
    found = {"uid": os.getuid(), "strategy": strategy, "verified": verified}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
