# SPDX-License-Identifier: Apache-2.0
"""Containers on a bridge; run by ``test_network.py`` where no one else is.

That is a network namespace with a libvirtd in it: nothing here is seen on
the host, and nothing is left.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns.linux import netlink
from tests.functional.command_line import CommandLine
from tests.functional.containers import SLEEP, run, stop
from tests.functional.containers import cli as cli
from tests.samples import TOP, samples
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

BRIDGE = "lxcbr"
HOST, HOST_6 = "192.0.2.1", "2001:db8::1"
#: A router behind the host, which knows nothing of the containers' network.
OUTSIDE, HOST_OUTSIDE = "198.51.100.1", "198.51.100.2"
#: Tells who connects by which address that comes.
SERVER = """\
import socket, sys
with socket.create_server((sys.argv[1], 8000)) as server:
    print(flush=True)
    while True:
        connection, address = server.accept()
        with connection:
            connection.sendall(address[0].encode())
"""
PAGE = TOP / "doc/source/user/network.rst"
DHCP = f"""\
interface {BRIDGE}
start 192.0.2.50
end 192.0.2.99
opt subnet 255.255.255.0
opt router {HOST}
"""
#: Sets what it is told (udhcpc of busybox).
SCRIPT = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


@contextmanager
def outside() -> Iterator[list[str]]:
    """Make a network that the host is in, with a router.

    :returns: what a command begins with that is executed there.
    """
    argv = ["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            pid = str(process.pid)
            there = ["nsenter", "-t", pid, "--net"]
            ip(*f"link add out type veth peer in netns {pid}".split())
            ip("addr", "add", f"{HOST_OUTSIDE}/24", "dev", "out")
            ip("link", "set", "out", "up")
            for arguments in (
                ("addr", "add", f"{OUTSIDE}/24", "dev", "in"),
                ("link", "set", "in", "up"),
            ):
                subprocess.run([*there, "ip", *arguments], check=True)
            yield there
        finally:
            process.kill()


@pytest.fixture(scope="module", autouse=True)
def bridge() -> Iterator[None]:
    """A bridge of the host, on which it has an address."""
    assert os.stat("/proc/self/ns/net").st_ino != 0xF0000098, "the host's"
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
    ip("addr", "add", f"{HOST_6}/64", "dev", BRIDGE, "nodad")
    ip("link", "set", BRIDGE, "up")
    yield
    ip("link", "delete", BRIDGE)


def inside(cli: CommandLine, *command: str) -> str:
    done = cli("container", "exec", "web", "--", *command)
    assert done.code == 0, done
    return done.out


def interface(cli: CommandLine) -> Any:
    (found,) = cli.json("container", "show", "web")["interfaces"]
    return found


def links() -> set[str]:
    return {each.name for each in Path("/sys/class/net").iterdir()}


def test_a_fixed_address(cli: CommandLine, busybox_rootfs: Path) -> None:
    before = links()
    network = (
        f"bridge:{BRIDGE},address=192.0.2.10/24,gateway={HOST},"
        f"address=2001:db8::10/64,gateway={HOST_6}"
    )
    run(cli, "web", busybox_rootfs, "--network", network)
    inside(cli, "ping", "-c", "1", "-W", "10", HOST)
    routes = inside(cli, "ip", "route")
    assert f"default via {HOST} dev eth0" in routes
    wait_for(lambda: "tentative" not in inside(cli, "ip", "-6", "addr"))
    inside(cli, "ping", "-6", "-c", "1", "-W", "10", HOST_6)
    found = interface(cli)
    assert found["name"] == "eth0"
    assert found["network"] == f"bridge:{BRIDGE}"
    address = inside(cli, "cat", "/sys/class/net/eth0/address").strip()
    assert found["mac"] == address
    assert found["addresses"][:2] == ["192.0.2.10/24", "2001:db8::10/64"]
    (listed,) = cli.json("container", "list")
    assert listed["addresses"] == ["192.0.2.10/24", "2001:db8::10/64"]
    # As the domain has it, also when it does not run, and at the next start.
    stop(cli, "web")
    assert interface(cli) == {
        "name": None,
        "mac": address,
        "addresses": [],
        "network": f"bridge:{BRIDGE}",
    }
    cli.json("container", "start", "web")
    inside(cli, "ping", "-c", "1", "-W", "10", HOST)
    assert cli("container", "verify", "web").code == 0
    assert cli("container", "destroy", "web").code == 0
    wait_for(lambda: links() == before)


def commands(first: str) -> list[str]:
    """Return the lines of the page's block that begins with a command."""
    (found,) = (
        each.commands for each in samples(PAGE) if each.text.startswith(first)
    )
    return found


@contextmanager
def server(address: str, there: Sequence[str] = ()) -> Iterator[None]:
    """Run a server that tells its clients the addresses that they have.

    :param there: what a command begins with that is executed where it is.
    """
    argv = [*there, sys.executable, "-c", SERVER, address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def router() -> Iterator[None]:
    """A router behind the host, and a host that forwards nothing yet."""
    forwards = Path("/proc/sys/net/ipv4/ip_forward")
    forwards.write_text("0")
    with outside() as there, server(HOST), server(OUTSIDE, there):
        yield
    forwards.write_text("0")


def test_the_way_out(
    cli: CommandLine, busybox_rootfs: Path, router: None
) -> None:
    """It needs all that the page says, and hides the container."""
    network = f"bridge:{BRIDGE},address=192.0.2.10/24,gateway={HOST}"
    run(cli, "web", busybox_rootfs, "--network", network)
    ping = ("container", "exec", "web", "--", "ping", "-c", "1", "-W", "1")
    # Only the host's own addresses, of whatever network, as it is.
    assert cli(*ping, HOST_OUTSIDE).code == 0
    sysctl, *rules = commands("sysctl ")
    assert len(rules) == 3
    for line in (sysctl, *rules):
        assert cli(*ping, OUTSIDE).code == 1, line
        subprocess.run(["bash", "-ec", line], check=True, timeout=30)
    try:
        assert cli(*ping, OUTSIDE).code == 0
        ask = ("nc", "-w", "10")
        assert inside(cli, *ask, OUTSIDE, "8000") == HOST_OUTSIDE
        # On the bridge it is seen as it is.
        assert inside(cli, *ask, HOST, "8000") == "192.0.2.10"
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "containers"])
    assert cli(*ping, OUTSIDE).code == 1


def test_the_bridge_of_the_page() -> None:
    ip("link", "set", BRIDGE, "name", "before")
    try:
        for line in commands("ip link add"):
            subprocess.run(["bash", "-ec", line], check=True, timeout=30)
        argv = ["ip", "-json", "addr", "show", "dev", BRIDGE]
        (found,) = json.loads(subprocess.check_output(argv))
        assert "UP" in found["flags"]
        addresses = [
            f"{each['local']}/{each['prefixlen']}"
            for each in found["addr_info"]
        ]
        assert f"{HOST}/24" in addresses
        ip("link", "delete", BRIDGE)
    finally:
        ip("link", "set", "before", "name", BRIDGE)


def test_an_address_by_dhcp(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    configuration = tmp_path / "udhcpd.conf"
    leases = tmp_path / "leases"
    leases.touch()
    configuration.write_text(f"{DHCP}lease_file {leases}\n")
    script = busybox_rootfs / "dhcp"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    server = subprocess.Popen(["busybox", "udhcpd", "-f", configuration])
    try:
        run(cli, "web", busybox_rootfs, "--network", f"bridge:{BRIDGE}")
        inside(cli, "udhcpc", "-i", "eth0", "-n", "-q", "-s", "/dhcp")
        inside(cli, "ping", "-c", "1", "-W", "10", HOST)
        (address, *_) = interface(cli)["addresses"]
        assert address.startswith("192.0.2.")
        assert address.endswith("/24")
    finally:
        server.terminate()
        server.wait(30)


def test_what_a_hostile_container_names(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """Its names reach no terminal, and their number no end."""
    run(cli, "web", busybox_rootfs)
    inside(cli, "ip", "link", "add", "\x1b]0;x\x07", "type", "bridge")
    many = "for i in $(seq 50); do ip link add d$i type bridge || exit; done"
    inside(cli, "/bin/sh", "-c", many)
    shown = cli.json("container", "show", "web")["interfaces"]
    assert shown[0]["name"] == r"\x1b]0;x\x07"
    assert shown[0]["network"] is None
    assert len(shown) <= 32
    cli("container", "exec", "web", "--", "/bin/sh", "-c",
        "for i in $(seq 100); do ip addr add 10.0.$i.1/24 dev d1; done",
        )  # fmt: skip
    shown = cli.json("container", "show", "web")["interfaces"]
    assert max(len(each["addresses"]) for each in shown) == 32


def test_a_network_that_is_the_hosts(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """The host's devices are not the container's."""
    cli.configure("userns_policy = preferred\n")
    options = ("--init", SLEEP, "--network", "host", "--mode", "host")
    done = cli("container", "run", "web", "--rootfs", busybox_rootfs, *options)
    assert done.code == 0
    assert cli.json("container", "show", "web")["interfaces"] == []


def test_the_devices_of_a_namespace(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """They are read without going there for good."""
    run(cli, "web", busybox_rootfs, "--network", f"bridge:{BRIDGE}")
    pid = cli.json("container", "show", "web")["init_pid"]
    own = os.readlink("/proc/thread-self/ns/net")
    with open(f"/proc/{pid}/ns/net") as namespace:
        (found,) = netlink.read_devices(namespace.fileno())
    assert found.name == "eth0"
    assert os.readlink("/proc/thread-self/ns/net") == own
    with open("/proc/self/ns/net") as namespace:
        names = {
            each.name for each in netlink.read_devices(namespace.fileno())
        }
    assert BRIDGE in names
    assert "lo" not in names


def test_what_is_missing(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    def rows() -> dict[str, Any]:
        done = cli("host", "check", "-f", "json")
        return {each["check"]: each for each in json.loads(done.out)}

    run(cli, "web", busybox_rootfs, "--network", f"bridge:{BRIDGE}")
    stop(cli, "web")
    assert rows()["bridges"]["status"] == "PASS"
    assert BRIDGE in rows()["bridges"]["message"]
    # No network driver is loaded into this libvirtd.
    assert rows()["network driver"]["status"] == "WARN"
    options = ("--rootfs", busybox_rootfs, "--init", SLEEP, "--replace")
    error = cli(
        "container", "run", "web", *options, "--network", "network:default"
    ).error()
    assert error.startswith("web: libvirt has no network default: ")
    assert "install its network driver" in error
    ip("link", "set", BRIDGE, "name", "renamed")
    try:
        found = rows()["bridges"]
        assert found["status"] == "WARN"
        assert f"no bridge {BRIDGE}, which web" in found["message"]
        assert found["remedy"] == f"ip link add {BRIDGE} type bridge"
        error = cli("container", "start", "web").error()
        assert f"there is no bridge {BRIDGE} where libvirt looks" in error
    finally:
        ip("link", "set", "renamed", "name", BRIDGE)
