# SPDX-License-Identifier: Apache-2.0
"""``container run``: steps without taking them, CPU time, autostart."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import libvirt
import pytest

from lxc_userns.host import hook
from tests.functional.command_line import ID_MAP, CommandLine
from tests.functional.containers import SLEEP, pid_of, run
from tests.functional.containers import cli as cli
from tests.functional.test_resource_limits import IS_UNIFIED, limiting_group
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")


def files(*trees: Path) -> dict[str, tuple[int, int, int]]:
    """Return all files, with their owners and times of change."""
    found = {}
    for tree in trees:
        for path in (tree, *tree.rglob("*")):
            status = path.lstat()
            owner = status.st_uid, status.st_gid
            changed = 0 if path.is_dir() else status.st_ctime_ns
            found[str(path)] = (*owner, changed)
    return found


def make_archive(rootfs: Path) -> Path:
    archive = rootfs.with_suffix(".tar")
    options = ["--numeric-owner", "-C", str(rootfs)]
    subprocess.run(["tar", *options, "-cf", str(archive), "."], check=True)
    return archive


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), "allocate mount define start verify"),
        (("--strategy", "overlay"), "allocate mount define start verify"),
        (("--strategy", "chown"), "allocate shift mount define start verify"),
        (("--archive",), "allocate unpack mount define start verify"),
        (
            ("--volume", "{volume}:/srv:chown", "--autostart", "--cpus", "1"),
            "allocate shift mount mount define autostart start verify",
        ),
    ],
)
def test_the_steps_are_those_that_are_taken(
    cli: CommandLine,
    busybox_rootfs: Path,
    reachable_path: Path,
    options: tuple[str, ...],
    names: str,
    libvirt_connection: libvirt.virConnect,
) -> None:
    volume = reachable_path / "volume"
    volume.mkdir()
    rootfs = busybox_rootfs
    if "--archive" in options:
        rootfs, options = (
            make_archive(busybox_rootfs),
            ("--strategy=idmapped",),
        )
    options = tuple(each.format(volume=volume) for each in options)
    arguments = ("container", "run", "web1", "--rootfs", str(rootfs),
                 "--init", SLEEP, *options)  # fmt: skip
    cli.json("container", "list")
    before = files(cli.config.parent, reachable_path)
    # Of autostart without the hook is warned.
    listed = json.loads(cli(*arguments, "--dry-run", "-f", "json").out)
    assert files(cli.config.parent, reachable_path) == before
    assert cli.mounts() == []
    assert libvirt_connection.listAllDomains() == []
    assert [each["step"] for each in listed] == names.split()
    done = cli("-vv", *arguments)
    assert done.code == 0
    taken = re.findall(r"(?m)^debug: web1: step (\w+): (.*)$", done.err)
    told = [(each["step"], each["what"]) for each in listed]
    if "unpack" in names.split():
        # Why a strategy is taken is known once it is unpacked.
        told = [(step, what) for step, what in told if step != "mount"]
        taken = [(step, what) for step, what in taken if step != "mount"]
    assert taken == told
    assert told[0] == ("allocate", f"uid_map {ID_MAP}, gid_map {ID_MAP}")


def test_what_a_dry_run_refuses(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    dry = ("container", "run", "web1", "--dry-run", "--rootfs")
    assert "No such file" in cli(*dry, "/absent").error()
    error = cli(*dry, busybox_rootfs, "--init", "/bin/absent").error()
    assert "has no /bin/absent" in error
    run(cli, "web1", busybox_rootfs)
    pid = pid_of(cli, "web1")
    options = (busybox_rootfs, "--init", SLEEP)
    assert "the name is taken" in cli(*dry, *options).error()
    steps = cli.json(*dry, *options, "--replace")
    assert steps[0]["step"] == "destroy"
    assert pid_of(cli, "web1") == pid


def test_what_keeps_the_one_that_is_there(
    cli: CommandLine, busybox_rootfs: Path, reachable_path: Path
) -> None:
    """A container is not destroyed for one that cannot be made."""
    volume = reachable_path / "volume"
    volume.mkdir()
    shutil.copytree(busybox_rootfs, reachable_path / "root", symlinks=True)
    run(cli, "web1", busybox_rootfs)
    pid = pid_of(cli, "web1")
    sleep = ("--init", SLEEP)
    for rootfs, options, reason in (
        (busybox_rootfs, ("--init", "/bin/absent"), "has no /bin/absent"),
        (
            busybox_rootfs,
            (*sleep, "--volume", f"{volume}:/srv"),
            "users of the host can reach it",
        ),
        (
            reachable_path / "root",
            (*sleep, "--strategy", "idmapped"),
            "users of the host can reach it",
        ),
    ):
        arguments = ("container", "run", "web1", "--replace", *options)
        for more in ((), ("--dry-run",)):
            found = cli(*arguments, "--rootfs", rootfs, *more)
            assert reason in found.error()
    assert pid_of(cli, "web1") == pid


def test_replacing_one_warns_once(
    cli: CommandLine, busybox_rootfs: Path, reachable_path: Path
) -> None:
    run(cli, "web1", busybox_rootfs)
    root = reachable_path / "root"
    shutil.copytree(busybox_rootfs, root, symlinks=True)
    options = ("--replace", "--rootfs", root, "--init", SLEEP)
    done = cli("container", "run", "web1", *options)
    assert done.code == 0
    assert done.err.count("strategy chown changes the owners") == 1


def quota(pid: int) -> tuple[int, int]:
    """Return quota and period of the kernel."""
    group = limiting_group(pid, "cpu")
    if IS_UNIFIED:
        words = (group / "cpu.max").read_text().split()
    else:
        words = [
            (group / name).read_text()
            for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        ]
    return int(words[0]), int(words[1])


def test_cpu_time(cli: CommandLine, busybox_rootfs: Path) -> None:
    """The quota is the kernel's, at every start, and is compared."""
    run(cli, "web1", busybox_rootfs, "--cpus", "0.25")
    assert quota(pid_of(cli, "web1")) == (25_000, 100_000)
    cli.json("container", "restart", "web1", "--timeout", "0")
    assert quota(pid_of(cli, "web1")) == (25_000, 100_000)
    # It holds: processes that never wait have a quarter of a CPU.
    group = limiting_group(pid_of(cli, "web1"), "cpu")
    loop = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    script = f"for n in 1 2 3 4; do ({loop}) & done; wait"

    def throttled() -> bool:
        done = cli("container", "exec", "web1", "--", "/bin/sh", "-c", script)
        assert done.code == 0
        text = (group / "cpu.stat").read_text()
        found = re.search(r"nr_throttled (\d+)", text)
        assert found is not None
        return int(found[1]) > 0

    # On a busy machine they may not even get that.
    wait_for(throttled)
    name = "cpu.max" if IS_UNIFIED else "cpu.cfs_quota_us"
    (group / name).write_text("max" if IS_UNIFIED else "-1")
    error = cli("container", "verify", "web1", "--report-only").error()
    assert f"{name} is " in error
    assert "promised was 25000" in error


def test_start_at_boot(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """It is told what that lacks."""
    argv = ("container", "run", "boot", "--rootfs", busybox_rootfs,
            "--init", SLEEP)  # fmt: skip
    warning = (
        "warning: boot: would not start at boot: libvirt's hook is not "
        f"installed; run: lxc-userns --config-file {cli.config} host hook "
        "install\n"
    )
    for option in (("--dry-run",), ()):
        done = cli(*argv, "--autostart", *option)
        assert (done.code, done.err) == (0, warning)
    assert libvirt_connection.lookupByName("boot").autostart() == 1
    assert cli("container", "autostart", "boot", "on").err == warning
    assert cli("container", "autostart", "boot", "off").err == ""
    assert cli("host", "hook", "install").code == 0
    try:
        assert cli("container", "autostart", "boot", "on").err == ""
        hook.HOOK.chmod(0o644)
        told = cli("container", "autostart", "boot", "on").err
        assert "is not executable; libvirt ignores it; run lxc-userns" in told
    finally:
        cli("host", "hook", "remove")
    assert cli("container", "destroy", "boot").code == 0
    run(cli, "boot", busybox_rootfs)
    assert libvirt_connection.lookupByName("boot").autostart() == 0
