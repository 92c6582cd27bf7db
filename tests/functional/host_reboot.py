# SPDX-License-Identifier: Apache-2.0
"""Containers that are there again after a reboot of the host.

Not among the tests of ``make test``: in the virtual machine, one of the tests
runs before the reboot and the other after it.
"""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.functional import images
from tests.functional.capabilities import TOOLS
from tests.functional.command_line import PROGRAM, CommandLine
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

#: What the program reads when it is given no configuration.
CONFIG = Path("/etc/lxc-userns/lxc-userns.conf")
POOL = "containers:1000000000:6553600\n"
PLACE = Path("/var/lib/lxc-userns-reboot")
CLI = CommandLine(CONFIG, PLACE / "state", Path("/run/lxc-userns-reboot"))
SLEEP = "/bin/sleep 100000"
#: Containers that are there again, and how each root filesystem is made ready.
AUTOSTARTED = {"web1": "idmapped", "web2": "overlay", "web3": "chown"}
CONVERTED, KEPT, STOPPED = "plain1", "always1", "stopped1"
AGAIN = (*AUTOSTARTED, CONVERTED, KEPT)
XML = """\
<domain type='lxc'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>100000</initarg></os>
  <devices>
    <filesystem type='mount'>
      <source dir='{tree}'/>
      <target dir='/'/>
    </filesystem>
    <console type='pty'/>
  </devices>
</domain>
"""


def run(*argv: str) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done
    return done.stdout


def virsh(*arguments: str) -> str:
    return run("virsh", "-c", "lxc:///", *arguments)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def show(name: str) -> Any:
    return CLI.json("container", "show", name)


def is_running(name: str) -> bool:
    return bool(show(name)["state"] == "running")


def leases() -> dict[str, Any]:
    """Return the ranges of host IDs by the instance that has each."""
    return {
        each["instance"]: (each["uid_start"], each["gid_start"])
        for each in CLI.json("lease", "list")
    }


def configure() -> None:
    """Set the host up as an operator does."""
    PLACE.mkdir(mode=0o700)
    for name in ("subuid", "subgid"):
        with open(f"/etc/{name}", "a") as file:
            file.write(POOL)
    CONFIG.parent.mkdir(exist_ok=True)
    CLI.configure("subid_owner = containers\n")
    units = Path("/etc/systemd/system")
    for unit in (TOOLS.parent / "etc/systemd").glob("*@.service"):
        text = unit.read_text().replace("/usr/bin/lxc-userns", str(PROGRAM))
        (units / unit.name).write_text(text)
    run("systemctl", "daemon-reload")


def make_tree(name: str) -> Path:
    tree = PLACE / name
    images.make_busybox(tree)
    return tree


def test_before() -> None:
    configure()
    assert CLI("host", "hook", "install").code == 0
    for name, strategy in AUTOSTARTED.items():
        options = "--strategy", strategy, "--init", SLEEP
        tree = make_tree(name)
        CLI.json("container", "run", name, "--rootfs", tree, *options)
        assert CLI("container", "autostart", name, "on").code == 0
    xml = PLACE / f"{CONVERTED}.xml"
    xml.write_text(XML.format(name=CONVERTED, tree=make_tree(CONVERTED)))
    virsh("define", str(xml))
    done = CLI("domain", "convert", CONVERTED, "--in-place")
    assert done.code == 0, done
    virsh("autostart", CONVERTED)
    virsh("start", CONVERTED)
    for name, more in ((KEPT, ("--restart", "always")), (STOPPED, ())):
        options = "--init", SLEEP, *more
        tree = make_tree(name)
        CLI.json("container", "run", name, "--rootfs", tree, *options)
    for name in (*AGAIN, STOPPED):
        done = CLI("container", "exec", name, "--", "touch", "/written")
        assert done.code == 0, done
    found = {"boot": boot_id(), "leases": leases()}
    assert {*found["leases"]} == {*AGAIN, STOPPED}
    (PLACE / "before.json").write_text(json.dumps(found))


def test_after() -> None:
    before = json.loads((PLACE / "before.json").read_text())
    assert boot_id() != before["boot"]
    # libvirtd starts some, systemd one, beside this test.
    for name in AGAIN:
        wait_for(partial(is_running, name))
        verified = CLI("container", "verify", name)
        assert verified.code == 0, verified
        done = CLI("container", "exec", name, "--", "ls", "/written")
        assert done.code == 0, done
    assert show(STOPPED)["state"] == "stopped"
    assert {name: [*ids] for name, ids in leases().items()} == before["leases"]
    # The range of each is the one that it runs with.
    for name in AGAIN:
        init = show(name)["init_pid"]
        maps = Path(f"/proc/{init}/uid_map").read_text().split()
        assert int(maps[1]) == leases()[name][0]
    CLI.json("container", "start", STOPPED)
    verified = CLI("container", "verify", "--all")
    assert verified.code == 0, verified
