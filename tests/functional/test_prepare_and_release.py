# SPDX-License-Identifier: Apache-2.0
"""Instances prepared and released, and what half of it leaves."""

import json
import os
import subprocess
import time
from pathlib import Path

import libvirt
import pytest

from lxc_userns.exceptions import InstanceError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.libvirtd.client import Guests
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest
from tests.functional.command_line import (
    BASE,
    COUNT,
    ID_MAP,
    PROGRAM,
    CommandLine,
)
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import SLEEP, UUID

pytestmark = pytest.mark.needs("containers")


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    """The program, which shifts on disk."""
    return command_line("rootfs_strategy = chown\n")


def test_half_made_containers_are_listed_and_destroyed(
    cli: CommandLine, manager: UserNamespaceManager, busybox_rootfs: Path
) -> None:
    # As after a crash between prepare and define.
    manager.prepare(InstanceRequest("half", UUID, str(busybox_rootfs)))
    assert len(cli.mounts()) == 1
    assert cli.json("container", "show", "half")["state"] == "incomplete"
    assert cli("container", "start", "half").error() == (
        "half: is incomplete; destroy it"
    )
    error = cli("container", "verify", "half").error(4)
    assert error == "half: is not running"
    assert cli("container", "destroy", "half").code == 0
    assert cli.mounts() == []
    assert cli.json("container", "list") == []


def test_a_killed_run_leaves_what_destroy_removes(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    for delay in (0.3, 0.4, 0.5):
        process = subprocess.Popen(
            [
                *(str(PROGRAM), "--config-file", str(cli.config)),
                *("container", "run", "killed", "--init", SLEEP),
                *("--rootfs", str(busybox_rootfs)),
            ],
            stdout=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.kill()
        process.wait(10)
        for container in cli.json("container", "list"):
            assert cli("container", "destroy", container["name"]).code == 0
        assert cli.mounts() == []
        assert Guests().find("killed") is None


def test_domains_of_others_are_left_alone(
    cli: CommandLine,
    manager: UserNamespaceManager,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli.json("container", "run", "mine", "--rootfs", busybox_rootfs,
             "--init", SLEEP)  # fmt: skip
    xml = libvirt_connection.lookupByName("mine").XMLDesc()
    assert cli("container", "destroy", "mine").code == 0
    other = libvirt_connection.defineXML(xml)  # Without a record of ours.
    error = cli("container", "run", "mine", "--rootfs", busybox_rootfs)
    assert "the name is taken" in error.error()
    shown = cli.json("container", "show", "mine")
    assert shown["strategy"] is None
    assert (shown["state"], shown["mode"]) == ("stopped", "private")
    assert shown["uid_map"] == ID_MAP
    (listed,) = cli.json("container", "list")
    assert (listed["name"], listed["state"]) == ("mine", "stopped")
    for verb in ("start", "stop", "destroy"):
        refused = cli("container", verb, "mine").error()
        assert refused.startswith("mine: libvirt has a domain of this name th")
    # With a record, but another UUID.
    manager.prepare(InstanceRequest("mine", UUID, str(busybox_rootfs)))
    assert cli.json("container", "show", "mine")["state"] == "incomplete"
    assert cli("container", "destroy", "mine").code == 0
    other.undefine()  # It is still there.
    for verb in ("show", "verify", "start", "stop", "destroy"):
        assert "mine: no such container" in cli("container", verb, "mine").err


def test_prepare_and_release_are_idempotent(
    cli: CommandLine, manager: UserNamespaceManager, busybox_rootfs: Path
) -> None:
    request = InstanceRequest("again", UUID, str(busybox_rootfs))
    first = manager.prepare(request)
    mounted = os.stat(first.root).st_ino, cli.mounts()
    assert manager.prepare(request) == first
    assert (os.stat(first.root).st_ino, cli.mounts()) == mounted
    assert len(cli.mounts()) == 1
    # Something else on top of it is no view.
    subprocess.run(["mount", "-t", "tmpfs", "none", first.root], check=True)
    assert manager.prepare(request) == first
    assert (os.stat(first.root).st_ino, cli.mounts()) == mounted
    other = IdMap.parse("0:1800000000:65536")
    moved = InstanceRequest(
        "again", UUID, str(busybox_rootfs), IdMaps(other, other)
    )
    assert manager.prepare(moved).id_maps == IdMaps(other, other)
    assert busybox_rootfs.stat().st_uid == 1_800_000_000
    manager.release("again")
    manager.release("again")
    manager.release(first)
    assert cli.mounts() == []


def test_a_running_instance_is_neither_changed_nor_released(
    cli: CommandLine, manager: UserNamespaceManager, busybox_rootfs: Path
) -> None:
    shown = cli.json("container", "run", "live", "--rootfs", busybox_rootfs,
                     "--init", SLEEP)  # fmt: skip
    request = InstanceRequest(
        "live", shown["uuid"], str(busybox_rootfs), hostname="live"
    )
    assert manager.prepare(request).root == shown["view"]
    other = IdMap.parse("0:1800000000:65536")
    with pytest.raises(InstanceError, match="live: is running; stop it"):
        manager.prepare(
            InstanceRequest(
                "live",
                shown["uuid"],
                str(busybox_rootfs),
                IdMaps(other, other),
            )
        )
    with pytest.raises(InstanceError, match="live: is running; stop it"):
        manager.release("live")
    assert cli.json("container", "verify", "live")["uid_map"] == ID_MAP


def test_a_busy_view_is_not_released(
    cli: CommandLine, manager: UserNamespaceManager, busybox_rootfs: Path
) -> None:
    prepared = manager.prepare(
        InstanceRequest("hold", UUID, str(busybox_rootfs))
    )
    below = f"{prepared.root}/tmp"
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    error = cli("container", "destroy", "hold").error()
    assert error == f"{prepared.root}: is busy: unmount {below} first"
    assert cli.json("container", "show", "hold")["name"] == "hold"
    subprocess.run(["umount", below], check=True)
    assert cli("container", "destroy", "hold").code == 0
    assert (busybox_rootfs / "tmp").is_dir()


def test_a_failed_start_leaves_nothing(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    # A program that libvirt cannot execute.
    broken = busybox_rootfs / "broken"
    broken.write_text("#!/no/interpreter\n")
    broken.chmod(0o755)
    result = cli.run_to_end(
        "fail", "--rootfs", busybox_rootfs, "--init", "/broken"
    )
    assert "its first process ended at once" in result.error()
    assert cli.json("container", "list") == []
    assert cli.mounts() == []
    assert Guests().find("fail") is None


def test_no_start_with_ids_of_a_user_of_the_host(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    """The same words from config check and from every front."""
    passwd = tmp_path / "passwd"
    alice = BASE + 1000
    text = Path("/etc/passwd").read_text()
    passwd.write_text(f"{text}alice:x:{alice}:{alice}::/:/bin/sh\n")
    script = f'mount --bind {passwd} /etc/passwd; exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-ec", script, "sh")
    of_what = ("--init", SLEEP, "--rootfs", str(busybox_rootfs))
    cli.json("container", "run", "web1", *of_what)
    assert cli("container", "stop", "web1").code == 0
    held = (
        f"host IDs {BASE}-{BASE + COUNT - 1} are held by user alice ({alice})"
    )

    checked = cli("config", "check", "-f", "json", prefix=prefix)
    problems = [
        row for row in json.loads(checked.out) if row["severity"] == "problem"
    ]
    assert checked.code == 1
    assert [each["message"] for each in problems] == [held]
    domain = tmp_path / "domain.xml"
    domain.write_text(
        "<domain type='lxc'><os><type>exe</type></os><devices><filesystem>"
        "<source dir='/srv/x'/><target dir='/'/></filesystem></devices>"
        "</domain>"
    )
    given = ("--uid-map", ID_MAP, "--gid-map", ID_MAP)
    for arguments in (
        ("container", "start", "web1"),
        ("container", "run", "web2", *of_what),
        ("domain", "idmap", str(domain)),
        ("domain", "idmap", str(domain), *given),
        ("rootfs", "shift", str(busybox_rootfs), *given),
    ):
        error = cli(*arguments, prefix=prefix).error()
        assert held in error
        assert "[lxc_userns] held_ids = allow" in error
    (listed,) = cli.json("container", "list")
    assert (listed["name"], listed["state"]) == ("web1", "stopped")
    with cli.config.open("a") as stream:
        stream.write("held_ids = allow\n")
    assert cli("domain", "idmap", str(domain), prefix=prefix).code == 0
