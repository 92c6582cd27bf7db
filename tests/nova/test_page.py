# SPDX-License-Identifier: Apache-2.0
"""The documentation of the driver, followed as it stands."""

import configparser
import os
import re
import subprocess
from pathlib import Path

from tests.nova.conftest import ImageFactory, NovaFactory, subordinate_ids
from tests.nova.harness import (
    FIRST_HOST,
    OTHER_HOST,
    Nova,
    Settings,
    run_text,
)
from tests.nova.ours import DRIVER, is_private, mode_of, resizable
from tests.nova.server import Server
from tests.nova.user import BIN
from tests.samples import TOP, run_line, samples

PAGE = TOP / "doc/source/nova/index.rst"
# What the harness writes by itself, and the page tells to.
TOLD: Settings = {
    "DEFAULT": dict.fromkeys(
        ["compute_driver", "use_cow_images", "force_raw_images"]
    ),
    "libvirt": dict.fromkeys(["virt_type", "images_type"]),
}


def block(text: str, kind: str = "literal") -> str:
    """Find the one block of the page that has a text."""
    (found,) = (
        each.text
        for each in samples(PAGE)
        if each.kind == kind and text in each.text
    )
    return found


def run(lines: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run commands as the page has them, in a directory."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    return run_line(lines, directory, environment, 60)


def follow(lines: str, directory: Path) -> None:
    """Run commands, all of which go well."""
    done = run(lines, directory)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def with_configuration(lines: str, nova: Nova) -> str:
    """Name its own configuration in place of the usual one."""
    shown = "/etc/nova/nova.conf"
    assert shown in lines
    return lines.replace(shown, f"{nova.directory}/nova.conf")


def test_from_a_bare_compute_host(
    start_nova: NovaFactory, busybox_image: ImageFactory, tmp_path: Path
) -> None:
    nova = start_nova(TOLD, start_compute=False)
    # oslo.config does not spread what DEFAULT has.
    told = configparser.RawConfigParser(default_section="")
    told.read_string(block("compute_driver = lxc_userns", "ini"))
    nova.configure({name: dict(told[name]) for name in told.sections()})
    line = block(" >> /etc/subgid").replace("/etc/", f"{tmp_path}/")
    follow(line, tmp_path)
    given = (tmp_path / "subuid").read_text()
    assert given == (tmp_path / "subgid").read_text()
    with subordinate_ids(tmp_path, given):
        looks = with_configuration(block("host check"), nova)
        of_host, of_configuration = looks.splitlines()
        done = run(of_host, tmp_path)
        failed = [x for x in done.stdout.splitlines() if "| FAIL " in x]
        # The hosts of tests may have version 1 without systemd-machined.
        assert all(each.startswith("| cgroups ") for each in failed)
        assert done.returncode == bool(failed)
        follow(of_configuration, tmp_path)
        nova.start_compute()
        server = nova.boot(nova.add_image(busybox_image("ext4")))
        assert is_private(server, int(given.split(":")[1]))
        nova.clean()


def test_images_that_say_where_they_run(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    """Beside a host of another kind."""
    name = "hypervisor_type"
    assert f" --property {name}=lxc " in block("openstack image set")
    nova = start_nova(DRIVER)
    nova.start_other()
    for kind, host in (("lxc", FIRST_HOST), ("fake", OTHER_HOST)) * 2:
        image = nova.add_image(busybox_image("ext4"), properties={name: kind})
        assert nova.boot(image).host == host
    image = nova.add_image(busybox_image("ext4"), properties={name: "kvm"})
    assert "No valid host" in nova.boot(image, "ERROR").fault
    nova.clean()


def start_of_root(disk: Path) -> int:
    """Return at which sector its root partition begins; 0 without any."""
    shown = run_text(["fdisk", "-l", disk])
    starts = re.findall(rf"^{re.escape(str(disk))}\d+ +(\d+) ", shown, re.M)
    return int([0, *starts][-1])


def go_back(nova: Nova, server: Server, strategy: str) -> None:
    """Go back to Nova's own driver, with a server that has stopped."""
    nova.stop_compute()
    assert "``compute_driver = libvirt.LibvirtDriver``" in PAGE.read_text()
    own = {"compute_driver": "libvirt.LibvirtDriver"}
    nothing = dict.fromkeys(("uid_maps", "gid_maps"))
    nova.configure({"DEFAULT": own, "libvirt": nothing})
    start = start_of_root(server.disk)
    if strategy == "chown":
        back = with_configuration(block("rootfs unshift"), nova)
        if start:
            assert "``offset=`` besides: 512 times" in PAGE.read_text()
            offset = f" -o loop,offset={512 * start},"
            back = back.replace(" -o loop,", offset)
        follow(back, server.directory)
    if start:
        whole = block("dd if=disk").replace("START", str(start))
        follow(whole, server.directory)
    nova.start_compute()
    server.start()
    assert server.namespace("user") == os.readlink("/proc/self/ns/user")
    assert mode_of(server, "/bin/su") == "4755 0"


def test_there_and_back(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    """From Nova's own driver, and to it again."""
    nova = start_nova()
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    assert server.namespace("user") == os.readlink("/proc/self/ns/user")
    nova.stop_compute()
    nova.configure(resizable(strategy))
    nova.start_compute()
    server.reboot("HARD")
    assert is_private(server)
    server.stop()
    go_back(nova, server, strategy)
    server.delete()
    nova.wait_for_no_leftovers()


def test_back_with_partitions(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    """Nova's own driver could not have started it before."""
    nova = start_nova(resizable(strategy))
    server = nova.boot(nova.add_image(busybox_image("partitioned")))
    server.run_in("sh", "-c", "echo >/note; chown 1000:1000 /note")
    assert is_private(server)
    server.stop()
    go_back(nova, server, strategy)
    assert mode_of(server, "/note") == "644 1000"
    server.delete()
    nova.wait_for_no_leftovers()
