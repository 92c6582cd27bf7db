# SPDX-License-Identifier: Apache-2.0
"""Leases that nothing has any more, given back."""

import subprocess
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine
from tests.functional.guest import ask
from tests.functional.lease_host import (
    WHOLE,
    WITHOUT_LIBVIRT,
    HostFiles,
    at_once,
    cli,
    container_cli,
    held,
    host_files,
    run,
    running_with,
    starts,
)

__all__ = ["cli", "container_cli", "host_files"]

# Also those without containers: what is mounted over files of /etc is to be
# seen in a mount namespace of our own alone.
pytestmark = pytest.mark.needs("containers")


def test_gc_returns_what_libvirt_does_not_know(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    begin = run(cli, "web", busybox_rootfs)
    collect = ("lease", "gc", "-f", "json")
    now = (*collect, "--grace-period", "0")
    domain = libvirt_connection.lookupByName("web")
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    domain.destroy()
    domain.undefine()

    (orphan,) = cli(*collect).json()
    assert (orphan["instance"], orphan["outcome"]) == ("web", "waiting")
    assert starts(orphan) == begin
    (lease,) = cli.json("lease", "list")
    assert lease["state"].startswith("held, unknown to libvirt since ")
    # It was about to be defined anew.
    domain = libvirt_connection.defineXML(xml)
    assert cli(*now).json() == []
    (lease,) = cli.json("lease", "list")
    assert lease["state"] == "held"
    domain.undefine()

    # Something runs with its last ID.
    with running_with(begin[0] + WHOLE - 1, 1) as process:
        (orphan,) = cli(*now).json()
    assert (orphan["outcome"], orphan["reason"]) == (
        "kept",
        f"is in use by the running process {process.pid} (cat) "
        f"({begin[0] + WHOLE - 1}:1)",
    )
    error = cli(*now, prefix=WITHOUT_LIBVIRT).error(4)
    assert error.startswith("libvirt: connect to lxc:///: ")
    (orphan,) = cli(*now).json()
    assert (orphan["instance"], orphan["outcome"]) == ("web", "returned")
    assert held(cli) == {}
    assert list(cli.state.glob("instances/*")) == []
    assert cli.mounts() == []
    assert busybox_rootfs.stat().st_uid == 0


def test_gc_keeps_what_has_files_of_its_own(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    archive = busybox_rootfs.with_suffix(".tar")
    subprocess.run(
        ["tar", "-C", busybox_rootfs, "-cf", archive, "."], check=True
    )
    leases = {
        "over": run(cli, "over", busybox_rootfs, "--strategy", "overlay"),
        "tape": run(cli, "tape", archive),
    }
    files = {
        "over": cli.state / "private/over/overlay/upper/made",
        "tape": cli.state / "private/tape/rootfs/made",
    }
    for container in cli.json("container", "list"):
        ask(container["init_pid"], "touch /made")
        domain = libvirt_connection.lookupByName(container["name"])
        domain.destroy()
        domain.undefine()
    found = cli.json("lease", "gc", "--grace-period", "0")
    assert {
        each["instance"]: (each["outcome"], each["reason"]) for each in found
    } == dict.fromkeys(
        leases,
        ("kept", "has files of its own; destroy or release the instance"),
    )
    assert held(cli) == leases
    assert all(map(Path.exists, files.values()))
    for result in at_once(
        cli, "container destroy over", "container destroy tape"
    ):
        assert result.code == 0
    assert not any(map(Path.exists, files.values()))
    assert held(cli) == {}


def test_what_is_no_grace_period(cli: CommandLine) -> None:
    error = cli("lease", "gc", "--grace-period", "nan").error()
    assert error == "--grace-period = nan: expected 0 or more"
