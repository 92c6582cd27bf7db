# SPDX-License-Identifier: Apache-2.0
"""Bad input of containers: one clear line, and none is left."""

import os
from pathlib import Path

import pytest

from tests.functional.command_line import CommandLine
from tests.functional.containers import SLEEP

NO_NAME = "not a name: a letter or digit is needed"


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no /sbin/absent: No such file or directory"),
        (["--init", "/etc"], "/etc in it is no program"),
        (["--init", "/etc/passwd"], "/etc/passwd in it is no program"),
        (["--init", "sleep 10"], "init 'sleep': expected an absolute path"),
        (["--init", ""], "--init: is empty"),
        (["--init", "/bin/sh '"], "--init = /bin/sh ': No closing quotation"),
        (["--memory", "0"], "memory in MiB 0: expected a number from 1"),
        (["--memory", "9" * 30], "memory in MiB 999"),
        (["--vcpus", "2"], "--vcpus = 2: limits nothing, for a container has"),
        (["--cpus", "-1"], "CPUs -1.0: expected 0.01 to 65536"),
        (["--cpus", "nan"], "CPUs nan: expected 0.01 to 65536"),
        (["--cpus", "inf"], "CPUs inf: expected 0.01 to 65536"),
        (["--cpus", "0.001"], "CPUs 0.001: expected 0.01 to 65536"),
        (["--env", "NAME"], "--env = NAME: expected NAME=VALUE"),
        (["--env", "=x"], "--env = =x: expected NAME=VALUE"),
        (["--env", "A B=x"], "environment variable 'A B': expected letters"),
        (["--env", "A=<x>"], "environment variable A '<x>': has '<'"),
        (["--network", "lan"], "--network = lan: expected network:NAME"),
        (["--network", "bridge:"], "--network = bridge:: expected network:"),
        (
            ["--network", "none", "--network", "bridge:br0"],
            "--network = none: expected network:NAME, bridge:NAME, or none",
        ),
        (
            ["--network", f"bridge:{'x' * 16}"],
            f"source of bridge interface '{'x' * 16}': expected a device",
        ),
    ],
)
def test_container_run_refuses(
    container_cli: CommandLine,
    rootfs: Path,
    arguments: list[str],
    message: str,
) -> None:
    default = [] if "--init" in arguments else ["--init", SLEEP]
    if not arguments:
        default = ["--init", "/sbin/absent"]
    result = container_cli(
        *("container", "run", "bad", "--rootfs", rootfs),
        *(*default, *arguments),
    )
    assert message in result.error()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--network", "bridge:absent0"],
            "bad: there is no bridge absent0 where libvirt looks; make it: "
            "ip link add absent0 type bridge",
        ),
        (
            ["--network", "bridge:lo", "--dry-run"],
            "bad: lo is a network device, and no bridge; see those that are: "
            "ip link show type bridge",
        ),
        (
            ["--network", "network:absent"],
            "bad: libvirt has no network absent: ",
        ),
    ],
)
def test_what_libvirt_refuses_leaves_no_container(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    arguments: list[str],
    message: str,
) -> None:
    error = container_cli(
        *("container", "run", "bad", "--rootfs", busybox_rootfs),
        *("--init", SLEEP, *arguments),
    ).error()
    assert error.startswith(message)


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("run", ""),
        ("run", ".."),
        ("run", "a b"),
        ("run", "-x"),
        ("run", "x" * 64),
        ("show", "../x"),
        ("start", "a/b"),
        ("stop", "."),
        ("verify", ".x"),
        ("destroy", os.fsdecode(b"\xc3\xa4")),
    ],
)
def test_bad_names(
    cli: CommandLine, tmp_path: Path, verb: str, name: str
) -> None:
    arguments = ["--rootfs", str(tmp_path)] if verb == "run" else []
    # As after "--": else argparse takes -x for an option.
    result = cli("container", verb, *arguments, "--", name)
    assert NO_NAME in result.error()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    "verb", ["show", "verify", "stop", "start", "destroy"]
)
def test_no_such_container(container_cli: CommandLine, verb: str) -> None:
    result = container_cli("container", verb, "absent")
    assert result.error(5) == "absent: no such container"
    # Not even a directory for state was made.
    assert not container_cli.state.exists()


@pytest.mark.needs("containers")
def test_name_taken_and_running(
    container_cli: CommandLine, busybox_rootfs: Path
) -> None:
    run = (
        "container",
        "run",
        "taken",
        "--rootfs",
        busybox_rootfs,
        "--init",
        SLEEP,
    )
    assert container_cli(*run).code == 0
    try:
        error = container_cli(*run).error()
        assert error == (
            "taken: the name is taken; destroy that container or take another"
        )
        error = container_cli("container", "start", "taken").error()
        assert error == "taken: is running already"
    finally:
        container_cli("container", "destroy", "taken")


@pytest.mark.needs("containers")
@pytest.mark.parametrize("name", ["dev", "proc", "sys", ".oldroot"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_roots_that_would_lead_libvirt_astray(
    container_cli: CommandLine, busybox_rootfs: Path, name: str, what: str
) -> None:
    place = busybox_rootfs / name
    if place.exists():
        place.rmdir()
    if what == "link":
        place.symlink_to("/etc")
    else:
        place.touch()
    error = container_cli(
        *(
            "container",
            "run",
            "astray",
            "--rootfs",
            busybox_rootfs,
            "--init",
            SLEEP,
        )
    ).error()
    assert error == (f"{place}: is not a directory; make it one, or remove it")
    assert busybox_rootfs.stat().st_uid == 0


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("rootfs", "message"),
    [
        ("/nonexistent", "/nonexistent: No such file or directory"),
        ("/etc/passwd", "/etc/passwd: is no raw image of ext2"),
        ("", "No such file or directory"),
        ("/", "contains, or is in, [lxc_userns] state_path"),
        ("/proc/sys", "/proc/sys: has no /bin/sleep"),
    ],
)
def test_what_is_no_root_filesystem(
    container_cli: CommandLine, rootfs: str, message: str
) -> None:
    result = container_cli(
        "container", "run", "bad", "--rootfs", rootfs, "--init", SLEEP
    )
    assert message in result.error()


@pytest.mark.needs("containers")
def test_a_damaged_record_stops_its_instance_alone(
    container_cli: CommandLine, busybox_rootfs: Path
) -> None:
    records = container_cli.state / "instances"
    records.mkdir(parents=True)
    container_cli.state.chmod(0o700)
    (records / "odd.json").write_text("{")
    damaged = f"odd: its record {records}/odd.json is damaged"
    try:
        run = ("run", "good", "--rootfs", busybox_rootfs, "--init", SLEEP)
        assert container_cli("container", *run).code == 0
        listed = container_cli("container", "list", "-f", "value")
        assert (listed.code, listed.out.split()[0]) == (0, "good")
        assert listed.err.startswith(f"warning: {damaged}")
        for command in ("destroy", "start", "show", "stop"):
            error = container_cli("container", command, "odd").error()
            assert error.startswith(damaged)
    finally:
        (records / "odd.json").unlink()
    assert container_cli("container", "destroy", "good").code == 0
