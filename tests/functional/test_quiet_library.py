# SPDX-License-Identifier: Apache-2.0
"""The library in the process of a service: whose standard error it is."""

import subprocess
import sys
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import LONGEST, CommandLine

pytestmark = pytest.mark.needs("containers")

#: A service that prepares, and counts what libvirt tells it of errors.
SERVICE = """
import sys
from oslo_config import cfg
from lxc_userns import InstanceRequest, UserNamespaceManager, register_opts
config, rootfs, has_handler = sys.argv[1:]
told = []
if has_handler == "yes":
    import libvirt
    libvirt.registerErrorHandler(lambda _, error: told.append(error), None)
conf = cfg.ConfigOpts()
register_opts(conf)
conf([], default_config_files=[config])
manager = UserNamespaceManager(conf)
request = InstanceRequest(
    "web1", "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c", rootfs
)
try:
    print(manager.prepare(request).mode, len(told))
    print(manager.prepare(request).mode, len(told))
finally:
    manager.release("web1")
if has_handler == "yes":
    try:
        libvirt.open("lxc:///").lookupByName("web1")
    except libvirt.libvirtError:
        print("its own", len(told))
"""


@pytest.mark.parametrize("has_handler", ["no", "yes"])
def test_a_prepare_says_nothing_of_domains_that_there_are_not(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
    busybox_rootfs: Path,
    has_handler: str,
) -> None:
    """The handler of the service stays its own, and has nothing to do."""
    chown = "rootfs_strategy = chown\n"
    cli = CommandLine.make(tmp_path, reachable_path / "run", chown)
    arguments = [str(cli.config), str(busybox_rootfs), has_handler]
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = ["private 0", "private 0"]
    if has_handler == "yes":
        expected.append("its own 1")
    assert done.stdout.splitlines() == expected
