# SPDX-License-Identifier: Apache-2.0
"""Records of instances that libvirt does not know any more, released."""

import configparser
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns.instances.store import InstanceStore
from tests.functional.command_line import BASE, CommandLine
from tests.functional.conftest import CommandLineFactory
from tests.functional.foreign import running
from tests.functional.lease_host import WITHOUT_LIBVIRT

pytestmark = pytest.mark.needs("containers")

INIT = ("--init", "/bin/sleep 1000")
NOW = ("gc", "--grace-period", "0", "-f", "json")
UNIT = Path(__file__).parents[2] / "etc/systemd/lxc-userns-gc.service"

#: As RestrictNamespaces= has it (systemd.exec(5)), with the same error.
WITHOUT_NAMESPACES = (
    *("strace", "--follow-forks", "-qq", "-o", "/dev/null"),
    *("-e", "trace=setns,unshare", "-e", "inject=setns,unshare:error=EPERM"),
)


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    """The program, with ID maps that are for all."""
    return command_line("")


def run(
    cli: CommandLine,
    rootfs: Path,
    connection: libvirt.virConnect,
    *options: str | Path,
) -> libvirt.virDomain:
    """Run a container, and return its domain."""
    argv = ("container", "run", "web", "--rootfs", rootfs, *INIT)
    cli.json(*argv, *options)
    return connection.lookupByName("web")


def collect(
    cli: CommandLine, *options: str, prefix: Sequence[str] = ()
) -> Any:
    """Collect without a grace period, unless one is given."""
    return cli(*NOW, *options, prefix=prefix).json()


def hardened() -> list[str]:
    """Return a prefix by which a program has the rights of the service."""
    parser = configparser.RawConfigParser(strict=False)
    # Several lines of one option add up.
    text = UNIT.read_text().replace("\nCapabilityBoundingSet=", " ", 2)
    parser.read_string(text)
    names = [each for each in text.split() if each.startswith("CAP_")]
    rights = "".join(f",+{each[4:].lower()}" for each in names)
    assert len(names) > 3
    assert "RestrictNamespaces=yes" in text
    return [
        *WITHOUT_NAMESPACES,
        "setpriv",
        "--no-new-privs",
        f"--bounding-set=-all{rights}",
        "--",
    ]


def test_a_domain_that_was_undefined(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """It is collected with the rights that the service has."""
    domain = run(cli, busybox_rootfs, libvirt_connection)
    uuid, xml = domain.UUIDString(), domain.XMLDesc()
    assert collect(cli) == []
    domain.destroy()
    assert collect(cli) == []
    domain.undefine()
    row = {
        "instance": "web",
        "uuid": uuid,
        "uid_start": None,
        "gid_start": None,
        "count": None,
        "outcome": "waiting",
        "reason": "libvirt has not known it for 0 seconds",
    }
    waiting = cli("gc", "-f", "json").json()
    assert [{**each, "reason": row["reason"]} for each in waiting] == [row]
    # Of a record there is no lease to be returned.
    assert cli.json("lease", "gc", "--grace-period", "0") == []
    # It was about to be defined anew.
    domain = libvirt_connection.defineXML(xml)
    assert collect(cli) == []
    domain.undefine()
    error = cli(*NOW, prefix=WITHOUT_LIBVIRT).error(4)
    assert error.startswith("libvirt: connect to lxc:///: ")
    assert collect(cli, "other") == []
    (removed,) = collect(cli, "web", prefix=hardened())
    assert removed == {
        **row, "outcome": "removed", "reason": "libvirt does not know it"
    }  # fmt: skip
    assert [*cli.state.glob("instances/*")] == []
    assert cli.mounts() == []
    assert [*cli.run.iterdir()] == []
    assert collect(cli) == []
    run(cli, busybox_rootfs, libvirt_connection)


def test_what_is_shifted_stays_so(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    domain = run(
        cli, busybox_rootfs, libvirt_connection, "--strategy", "chown"
    )
    domain.destroy()
    domain.undefine()
    assert [each["outcome"] for each in collect(cli)] == ["removed"]
    assert (busybox_rootfs / "bin").stat().st_uid == BASE
    done = cli("rootfs", "unshift", busybox_rootfs)
    assert (done.code, done.err) == (0, "")
    assert (busybox_rootfs / "bin").stat().st_uid == 0


def test_what_is_in_use(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """By a process in its view, by a command, by a definition on disk."""
    domain = run(cli, busybox_rootfs, libvirt_connection)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    domain.destroy()
    domain.undefine()
    (view,) = cli.mounts()

    def kept() -> str:
        (each,) = collect(cli)
        assert each["outcome"] == "kept", each
        assert cli.mounts() == [view]
        return str(each["reason"])

    with subprocess.Popen(["cat"], cwd=view, stdin=subprocess.PIPE) as user:
        try:
            assert view in kept()
        finally:
            user.kill()
    store = InstanceStore(str(cli.state))
    with store.lock("web"):
        assert kept().startswith("lock instance-web: another operation has")
    with store.lock_container("web"):
        assert kept().startswith("lock container-web: another operation has")
    # libvirt passes over what it cannot read any more, as after an upgrade.
    file = Path("/etc/libvirt/lxc/web.xml")
    file.write_text(xml)
    try:
        assert kept() == f"is defined in {file}"
    finally:
        file.unlink()
    assert [each["outcome"] for each in collect(cli)] == ["removed"]
    assert cli.mounts() == []


def test_a_newer_domain_of_that_name_runs(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    shared_rootfs: Path,
) -> None:
    """It has another UUID, and is left alone."""
    domain = run(cli, busybox_rootfs, libvirt_connection)
    uuid = domain.UUIDString()
    domain.destroy()
    domain.undefine()
    with running(libvirt_connection, "web", shared_rootfs) as other:
        (removed,) = collect(cli)
        assert (removed["outcome"], removed["uuid"]) == ("removed", uuid)
        assert other.domain.isActive()
    assert cli.mounts() == []


def test_a_container_that_is_just_being_made(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """Prepared, and not defined yet: whoever makes it is waited for."""
    script = """
import json, subprocess, sys
from lxc_userns.libvirtd.client import Guests
define = Guests.define
def collect(self, name, xml):
    done = subprocess.run(json.loads(sys.argv.pop()), capture_output=True)
    print(done.stdout.decode(), file=sys.stderr)
    define(self, name, xml)
Guests.define = collect
from lxc_userns.cli.main import main
sys.exit(main(sys.argv[1:-1]))
"""
    program = [sys.executable, "-m", "lxc_userns", "--config-file"]
    argv = [*program, str(cli.config), *NOW]
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, "--config-file", cli.config),
            *("container", "run", "web", "--rootfs", busybox_rootfs, *INIT),
            repr(argv).replace("'", '"'),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
    )
    assert done.returncode == 0, done
    assert '"kept"' in done.stderr
    assert "lock container-web: another operation has held it" in done.stderr


def test_what_is_no_grace_period(cli: CommandLine) -> None:
    error = cli("gc", "--grace-period", "-1").error()
    assert error == "--grace-period = -1.0: expected 0 or more"
