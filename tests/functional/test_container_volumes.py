# SPDX-License-Identifier: Apache-2.0
"""Volumes of containers, by the command line."""

import os
from pathlib import Path

import pytest

from tests.functional.command_line import CommandLine
from tests.functional.containers import (
    ALICE,
    SLEEP,
    cli,
    pid_of,
    run,
    stop,
)
from tests.functional.guest import ask

__all__ = ["cli"]

pytestmark = pytest.mark.needs("containers")


def test_volumes(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "old").write_text("old\n")
    os.chown(data / "old", ALICE, ALICE)
    config = tmp_path / "app.conf"
    config.write_text("a = b\n")
    options = [
        "--volume", f"{data}:/data",
        "--volume", f"{data}:/mnt/readonly:ro",
        "--volume", f"{data}:/mnt/raw:none",
        "--volume", f"{config}:/etc/app.conf:ro",
        "--strategy", "overlay",
    ]  # fmt: skip
    for name in ("one", "two"):
        shown = run(cli, name, busybox_rootfs, *options)
    assert shown["volumes"] == [
        f"{data}:/data:idmap",
        f"{data}:/mnt/readonly:idmap,ro",
        f"{data}:/mnt/raw:none",
        f"{config}:/etc/app.conf:idmap,ro",
    ]
    one, two = pid_of(cli, "one"), pid_of(cli, "two")
    assert ask(one, "stat -c '%u' /data /data/old").split() == [
        "0", str(ALICE),
    ]  # fmt: skip
    ask(one, "echo new >/data/new; chown alice /data/new")
    assert (data / "new").stat().st_uid == ALICE
    assert ask(two, "cat /mnt/readonly/new") == "new"
    assert ask(two, "stat -c %u /mnt/raw/new") == "65534"
    assert ask(two, "cat /etc/app.conf") == "a = b"
    failed = "2>&1; test $? -ne 0"
    for script in ("touch /mnt/readonly/x", "echo x >/etc/app.conf",
                   "mount -o remount,rw,bind /mnt/readonly"):  # fmt: skip
        ask(one, f"({script}) {failed}")
    assert not (data / "x").exists()
    for point in (cli.run / "one").iterdir():
        flags = os.statvfs(point).f_flag
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOSUID or point.name == "root"
    stop(cli, "one")
    assert not (cli.run / "one").exists()
    cli.json("container", "start", "one")
    assert ask(pid_of(cli, "one"), "cat /data/new") == "new"


def test_a_volume_that_users_of_the_host_reach_is_refused(
    cli: CommandLine, busybox_rootfs: Path, reachable_path: Path
) -> None:
    data = reachable_path / "data"
    data.mkdir()
    arguments = ["container", "run", "web", "--rootfs", str(busybox_rootfs),
                 "--init", SLEEP, "--volume"]  # fmt: skip
    message = cli(*arguments, f"{data}:/data").error()
    assert f"chmod 0700 {reachable_path}" in message
    assert cli.json("container", "list") == []
    assert cli(*arguments, f"{data}:/data:ro").code == 0


@pytest.mark.parametrize("strategy", ["chown", "idmapped", "overlay"])
def test_links_of_the_root_filesystem_are_followed(
    cli: CommandLine, busybox_rootfs: Path, strategy: str
) -> None:
    (busybox_rootfs / "srv/www").mkdir(parents=True)
    (busybox_rootfs / "www").symlink_to("srv/www")
    data = busybox_rootfs.parent / "data"
    data.mkdir()
    (data / "page").write_text("text")
    made = cli.json(
        *("container", "run", "web", "--rootfs", busybox_rootfs),
        *("--strategy", strategy, "--init", SLEEP),
        *("--volume", f"{data}:/www", "--volume", f"{data}:/www/new"),
    )
    assert ask(made["init_pid"], "cat /srv/www/page") == "text"
    assert ask(made["init_pid"], "cat /srv/www/new/page") == "text"
    assert cli("container", "verify", "web").code == 0


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ("{state}:/state:ro", "contains, or is in, [lxc_userns] state_path"),
        ("/:/host:ro", "contains, or is in, [lxc_userns] state_path"),
        ("{rootfs}:/again:chown", "cannot be used as idmapped while"),
        ("{rootfs}/nowhere:/x", "No such file or directory"),
        ("{rootfs}:/dev", "libvirt has a mount of its own there"),
        ("{rootfs}/bin:/out/x", "a link in the root filesystem leads"),
        ("{rootfs}", "expected SOURCE:TARGET"),
    ],
)
def test_volumes_that_are_refused(
    cli: CommandLine, busybox_rootfs: Path, volume: str, message: str
) -> None:
    (busybox_rootfs / "out").symlink_to("/.oldroot/tmp")
    volume = volume.format(state=cli.state, rootfs=busybox_rootfs)
    cli.state.mkdir(mode=0o700)
    done = cli("container", "run", "web", "--rootfs", busybox_rootfs,
               "--init", SLEEP, "--volume", volume)  # fmt: skip
    assert message in done.error()
    assert cli.json("container", "list") == []
    assert cli.mounts() == []
    assert busybox_rootfs.stat().st_uid == 0
