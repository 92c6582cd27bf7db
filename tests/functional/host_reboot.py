# SPDX-License-Identifier: Apache-2.0
"""Containers of the Debian package that are there again after a reboot.

Not among the tests of ``make test``: in the virtual machine, one of the tests
runs before the reboot of the host, the others after it.
"""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.functional import images
from tests.functional.capabilities import TOOLS
from tests.functional.command_line import CommandLine
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

#: What the package has, and reads when it is given no configuration.
PROGRAM = Path("/usr/bin/lxc-userns")
CONFIG = Path("/etc/lxc-userns/lxc-userns.conf")
STATE, RUN = Path("/var/lib/lxc-userns"), Path("/run/lxc-userns")
POOL = "containers:1000000000:6553600\n"
PLACE = Path("/var/lib/reboot")
CLI = CommandLine(CONFIG, STATE, RUN, PROGRAM)
PACKAGE = "dist/deb/lxc-userns_*.deb"
TIMERS = "lxc-userns-verify.timer", "lxc-userns-gc.timer"
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
    """Run a command, which goes well, and return what it prints."""
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
    # Of what it depends on, all is there.
    run("dpkg", "--install", *map(str, TOOLS.parent.glob(PACKAGE)))
    CLI.configure("subid_owner = containers\n")
    run("systemctl", "enable", "--now", *TIMERS)


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
    # By the services of the package, with the rights that they have.
    for timer in TIMERS:
        assert run("systemctl", "is-active", timer).strip() == "active"
        service = timer.replace(".timer", ".service")
        run("systemctl", "start", service)
        result = run("systemctl", "show", "--value", "-p", "Result", service)
        assert result.strip() == "success"
    run("systemctl", "stop", *TIMERS)
    assert all(map(is_running, (*AGAIN, STOPPED)))
    assert {*leases()} == {*AGAIN, STOPPED}


def test_a_container_that_differs() -> None:
    """The service destroys one that is not as promised, and fails."""
    (record,) = (STATE / "instances").glob(f"{STOPPED}.json")
    record.write_text(record.read_text().replace("65536", "65535"))
    service = "lxc-userns-verify.service"
    done = subprocess.run(["systemctl", "start", service], timeout=600)
    assert done.returncode
    assert not is_running(STOPPED)
    assert all(map(is_running, AGAIN))


def test_purged() -> None:
    purge = "dpkg", "--purge", "lxc-userns"
    refused = subprocess.run(purge, capture_output=True, text=True)
    assert refused.returncode
    assert "there are containers: " in refused.stderr
    # It is as before.
    assert CLI("container", "verify", "--all").code == 0
    virsh("destroy", CONVERTED)
    reverted = CLI("domain", "convert", CONVERTED, "--in-place", "--revert")
    assert reverted.code == 0, reverted
    virsh("undefine", CONVERTED)
    for name in (*AUTOSTARTED, KEPT, STOPPED):
        done = CLI("container", "destroy", name)
        assert done.code == 0, done
    run(*purge)
    assert not PROGRAM.exists()
    roots = "/etc", "/run", "/usr", "/var"
    left = run("find", *roots, "-xdev", "-name", "*lxc[-_]userns*")
    # The operator's own, as the guide has it; systemd's of what failed.
    own = "/etc/apparmor.d/", "/etc/systemd/system/libvirtd.service.d/"
    others = (*own, "/run/systemd/units/")
    assert [each for each in left.split() if not each.startswith(others)] == []
