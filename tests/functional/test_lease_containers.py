# SPDX-License-Identifier: Apache-2.0
"""Containers with leases: what they get, keep and give back."""

import shutil
import subprocess
from pathlib import Path

import libvirt
import pytest

from tests.functional import images
from tests.functional.command_line import BASE, CommandLine
from tests.functional.lease_host import (
    INIT,
    OWNER,
    WHOLE,
    HostFiles,
    acquire,
    at_once,
    both,
    cli,
    container_cli,
    held,
    host_files,
    run,
    start_of,
    starts,
    summary,
)

__all__ = ["cli", "container_cli", "host_files"]

# Also those without containers: what is mounted over files of /etc is to be
# seen in a mount namespace of our own alone.
pytestmark = pytest.mark.needs("containers")


def owners(tree: Path) -> dict[str, tuple[int, int]]:
    """Return the owners in a tree."""
    found = {}
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(tree))] = (status.st_uid, status.st_gid)
    return found


def test_one_that_is_replaced_has_a_lease(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    """Also from a pool that has no other: the old one goes back before."""
    host_files.give_ranges(1, WHOLE)
    options = ("--rootfs", busybox_rootfs, "--init", INIT, "--replace")
    for _ in range(2):
        shown = container_cli.json("container", "run", "one", *options)
        assert start_of(shown) == both(0, size=WHOLE)[0]
    assert held(container_cli) == {"one": both(0, size=WHOLE)[0]}


def test_containers_get_ranges_of_their_own(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(3, WHOLE)
    options = ("--rootfs", str(busybox_rootfs), "--init", INIT,
               "--strategy", "overlay", "-f", "json")  # fmt: skip
    started = at_once(
        cli,
        ("container", "run", "one", *options),
        ("container", "run", "two", *options),
    )
    begin = {each.json()["name"]: start_of(each.json()) for each in started}
    assert sorted(begin.values()) == both(0, 1, size=WHOLE)
    assert held(cli) == begin
    assert cli("container", "stop", "one", "--timeout", "0").code == 0
    released, acquired = at_once(
        cli, "lease release one", "lease acquire three -f json"
    )
    assert released.error() == (
        "one: has its lease until it is destroyed or released"
    )
    assert starts(acquired.json()) == both(2, size=WHOLE)[0]
    assert start_of(cli.json("container", "start", "one")) == begin["one"]
    destroyed = at_once(cli, "container destroy one", "container destroy two")
    assert [each.code for each in destroyed] == [0, 0]
    assert held(cli) == {"three": both(2, size=WHOLE)[0]}


def failing_runs(rootfs: Path) -> dict[str, tuple[list[str], str]]:
    """Options with which no container runs, and what is said of them."""
    options = ["--rootfs", str(rootfs), "--init"]
    return {
        "rootfs": (["--rootfs", "/nonexistent"], "No such file or directory"),
        "init": ([*options, "/absent"], "has no /absent: No such file"),
        "start": (
            # Its first process ends while it is looked at, or before that.
            [*options, "/bin/false"],
            ": ",
        ),
    }


def test_a_run_that_fails_leaves_no_lease(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(1, WHOLE)
    for name, (options, message) in failing_runs(busybox_rootfs).items():
        assert message in cli.run_to_end(name, *options).error()
    assert held(cli) == {}


@pytest.mark.parametrize("failures", [["rootfs", "init"], ["start"]])
def test_a_lease_that_was_there_before_the_container(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    failures: list[str],
) -> None:
    cli = container_cli
    host_files.give_ranges(3, WHOLE)
    lease = acquire(cli, "web")
    assert lease == both(0, size=WHOLE)[0]
    runs = failing_runs(busybox_rootfs)
    for options, message in map(runs.__getitem__, failures):
        done = cli.run_to_end(
            "web", *options, again=lambda: acquire(cli, "web")
        )
        assert message in done.error()
    assert held(cli) == {"web": lease}
    assert run(cli, "web", busybox_rootfs) == lease


def test_what_is_shifted_on_disk_keeps_its_range_from_others(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    (busybox_rootfs / ".oldroot").mkdir()  # libvirt needs it.
    before = owners(busybox_rootfs)
    first, second = both(0, 1, size=WHOLE)

    def run_on_disk(name: str) -> tuple[int, int]:
        begin = run(cli, name, busybox_rootfs, "--strategy", "chown")
        assert owners(busybox_rootfs) == {
            path: (uid + begin[0], gid + begin[1])
            for path, (uid, gid) in before.items()
        }
        assert cli("container", "destroy", name).code == 0
        return begin

    assert run_on_disk("one") == first
    assert summary(cli("lease", "list")) == [
        f"0 held, 1 free: leases of {WHOLE} IDs from the pool of {OWNER}",
        f"not leased again while shifted for {first[0]}: {busybox_rootfs}",
    ]
    # Shifted for another range, it does not stand in the way of the first.
    assert run_on_disk("two") == second
    assert acquire(cli, "a") == first
    error = cli("lease", "acquire", "b").error()
    assert error.endswith(
        "; some were released, but are still on disk, so remove or unshift "
        f"{busybox_rootfs}"
    )
    assert cli("rootfs", "unshift", busybox_rootfs).code == 0
    assert owners(busybox_rootfs) == before
    assert acquire(cli, "b") == second


def test_a_volume_that_is_shifted_does_so_too_until_it_is_removed(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(1, WHOLE)
    data = busybox_rootfs.with_name("data")
    data.mkdir()
    run(cli, "web", busybox_rootfs, "--volume", f"{data}:/data:chown")
    assert data.stat().st_uid == BASE
    assert cli("container", "destroy", "web").code == 0
    assert f"unshift {data}" in cli("lease", "acquire", "a").error()
    shutil.rmtree(data)
    assert acquire(cli, "a") == (BASE, BASE)


@pytest.mark.needs("ext4")
def test_an_image_that_is_shifted_for_another_range(
    container_cli: CommandLine, busybox_rootfs: Path, host_files: HostFiles
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    first, second = both(0, 1, size=WHOLE)
    image = busybox_rootfs.with_suffix(".img")
    images.make_image("ext4", image, 64, root=busybox_rootfs)
    assert run(cli, "one", image, "--strategy", "chown") == first
    assert cli("container", "destroy", "one").code == 0
    assert summary(cli("lease", "list"))[1:] == [
        f"not leased again while shifted for {first[0]}: {image}"
    ]
    assert run(cli, "two", image, "--strategy", "chown") == second
    # While it is in use no one can look what it is shifted for.
    assert cli("container", "stop", "two", "--timeout", "0").code == 0
    assert summary(cli("lease", "list")) == [
        f"1 held, 1 free: leases of {WHOLE} IDs from the pool of {OWNER}"
    ]


def test_after_a_reboot_of_the_host(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = container_cli
    host_files.give_ranges(2, WHOLE)
    lease = run(cli, "web", busybox_rootfs)
    libvirt_connection.lookupByName("web").destroy()
    # All that a reboot takes away.
    subprocess.run(["umount", cli.run / "web/root"], check=True)
    shutil.rmtree(cli.run)
    assert [lease, acquire(cli, "a")] == both(0, 1, size=WHOLE)
    assert start_of(cli.json("container", "start", "web")) == lease
