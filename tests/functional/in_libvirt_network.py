# SPDX-License-Identifier: Apache-2.0
"""Containers in libvirt's own network; run by ``test_network.py``.

The network is the one that libvirt's package brings: a bridge, addresses by
DHCP, the way out behind the host's address.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.command_line import CommandLine
from tests.functional.containers import cli as cli
from tests.functional.containers import run, stop
from tests.functional.in_network import (
    OUTSIDE,
    SCRIPT,
    inside,
    interface,
    ip,
    links,
    outside,
)
from tests.functional.libvirt_daemon import Libvirtd
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

DRIVER = "libvirt_driver_network.so"
XML = """\
<network>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
  </ip>
</network>
"""
NETWORK = ("--network", "network:default")


@pytest.fixture(scope="module", autouse=True)
def router() -> Iterator[None]:
    """A network that the host is in, with a router."""
    ip("link", "set", "lo", "up")
    with outside():
        yield


@pytest.fixture(scope="module", autouse=True)
def driver(router: None) -> None:
    """libvirtd with its network driver."""
    there = Path("/usr/lib").glob(f"*/libvirt/connection-driver/{DRIVER}")
    Path("/run/libvirt/drivers", DRIVER).symlink_to(next(there))
    with Libvirtd.of_here().down():
        pass


@pytest.fixture
def network(
    driver: None, libvirt_connection: libvirt.virConnect
) -> Iterator[libvirt.virNetwork]:
    """The network, which does not run yet."""
    network = libvirt_connection.networkDefineXML(XML)
    yield network
    if network.isActive():
        network.destroy()
    network.undefine()


def row(cli: CommandLine) -> Any:
    rows = json.loads(cli("host", "check", "-f", "json").out)
    return next(each for each in rows if each["check"] == "network driver")


def test_an_address_and_the_way_out(
    cli: CommandLine, busybox_rootfs: Path, network: libvirt.virNetwork
) -> None:
    script = busybox_rootfs / "dhcp"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    before = links()
    error = cli(
        "container", "run", "web", "--rootfs", busybox_rootfs, *NETWORK
    )
    assert "virsh -c lxc:/// net-start default" in error.error()
    assert row(cli)["status"] == "WARN"
    network.create()
    assert row(cli)["status"] == "PASS"
    assert "default" in row(cli)["message"]
    run(cli, "web", busybox_rootfs, *NETWORK)
    # The bridge looks for loops before it forwards, and dnsmasq whether an
    # address is in use before it offers it.
    ask = ("udhcpc", "-i", "eth0", "-t", "30", "-n", "-q", "-s", "/dhcp")
    inside(cli, *ask)
    inside(cli, "ping", "-c", "1", "-W", "10", "192.168.122.1")
    inside(cli, "ping", "-c", "1", "-W", "10", OUTSIDE)
    found = interface(cli)
    assert found["network"] == "network:default"
    (lease,) = network.DHCPLeases()
    assert (found["mac"], found["addresses"][0]) == (
        lease["mac"],
        f"{lease['ipaddr']}/{lease['prefix']}",
    )
    assert cli("container", "verify", "web").code == 0
    stop(cli, "web")
    cli.json("container", "start", "web")
    assert cli("container", "destroy", "web").code == 0
    network.destroy()
    wait_for(lambda: links() == before)


def test_a_network_that_ends_meanwhile(
    cli: CommandLine, busybox_rootfs: Path, network: libvirt.virNetwork
) -> None:
    """The container runs on, and starts again when it is back."""
    network.create()
    run(cli, "web", busybox_rootfs, *NETWORK)
    network.destroy()
    assert cli("container", "verify", "web").code == 0
    stop(cli, "web")
    error = cli("container", "start", "web").error()
    assert "net-start default" in error
    network.create()
    cli.json("container", "start", "web")
    assert cli("container", "destroy", "web").code == 0
